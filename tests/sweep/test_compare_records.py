"""`sweep compare` with the records of another machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from command_line import call
from stored_runs import Stored, items

from sweep.workspace import Workspace

NLL = np.linspace(1.0, 2.0, 8)
TEXT = {"BF16": (NLL, None), "Q4": (NLL + 0.01, NLL / 100), "Q2": (NLL + 0.1, NLL / 10)}
TASKS = {"t": {name: items([1.0, 0.0, 1.0, 1.0]) for name in TEXT}}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    found = Workspace(tmp_path_factory.mktemp("shared"))
    Stored("one", TASKS, TEXT, windows="tokens").put(found)
    return found


@pytest.fixture(scope="module")
def theirs(space: Workspace) -> list[dict[str, Any]]:
    """What `sweep report --json` printed."""
    printed = call("report", "one", "--json", "--workspace", space.root)
    return [json.loads(line) for line in printed.stdout.splitlines()]


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "theirs.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def compared(space: Workspace, file: Path, *more: str) -> dict[str, Any]:
    found = call("compare", "one", file, "--workspace", space.root, "--format", "json", *more)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_differences_are_those_of_the_figures(space: Workspace, theirs: list[dict[str, Any]], tmp_path: Path) -> None:
    """Of records without samples, as earlier versions wrote them, nothing is paired."""
    rows = json.loads(json.dumps(theirs))
    rows[1]["divergence"]["kld_mean"] += 0.5
    for row in rows:
        del row["samples"]
    found = compared(space, written(tmp_path, rows))
    deltas = {(one["variant"], one["figure"]): one["delta"] for one in found["differences"]}
    assert deltas.pop(("Q4", "KL divergence")) == pytest.approx(0.5)
    assert set(deltas.values()) == {0.0}
    assert {figure for _, figure in deltas} == {"KL divergence", "perplexity", "t"}
    error = theirs[1]["divergence"]["kld_stderr"]
    one = next(one for one in found["differences"] if (one["variant"], one["figure"]) == ("Q4", "KL divergence"))
    assert one["stderr"] == pytest.approx(hypot(error, error))
    assert {one["paired"] for one in found["differences"]} == {None}
    assert "Nothing is paired" in call("compare", "one", tmp_path / "theirs.jsonl", "--workspace", space.root).stdout


def test_what_both_sides_have_by_window_and_item_is_paired(space: Workspace, tmp_path: Path) -> None:
    """As between two runs of one workspace; the p value of a text is that of scipy's paired t test."""
    noise = np.cos(np.arange(8)) / 50
    text = {name: (nll + noise, None if kld is None else kld * (1 + noise)) for name, (nll, kld) in TEXT.items()}
    tasks = {"t": {name: items([1.0, 1.0, 0.0, 1.0]) for name in TEXT}}
    theirs = Workspace(tmp_path / "theirs")
    theirs.root.mkdir()
    Stored("other", tasks, text, windows="tokens").put(theirs)
    Stored("two", tasks, text, windows="tokens").put(space)
    printed = call("report", "other", "--json", "--workspace", theirs.root).stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    found = {(one["variant"], one["figure"]): one for one in compared(space, written(tmp_path, rows))["differences"]}
    runs = json.loads(call("compare", "one", "two", "--workspace", space.root, "--format", "json").stdout)
    between = {(one["variant_a"], one["figure"]): one["difference"] for one in runs["text"]}
    between |= {(one["variant_a"], one["task"]): one["difference"] for one in runs["tasks"]}
    for (variant, figure), one in found.items():
        if figure != "KL divergence":  # between runs that measured the reference apart it is not compared
            expected = between[variant, figure]
            assert one["paired"].pop("clusters") is expected.pop("clusters") is None
            assert one["paired"] == pytest.approx(expected, rel=1e-6)
    a, b = TEXT["Q2"][0], text["Q2"][0]
    own = found["Q2", "perplexity"]
    assert own["paired"]["p_value"] == pytest.approx(scipy.stats.ttest_rel(b, a).pvalue, rel=1e-5)
    assert own["paired"]["delta"] == pytest.approx(np.log(own["b"] / own["a"]), rel=1e-6)
    assert found["Q4", "t"]["paired"]["p_value"] == 1.0  # McNemar: one item won, one lost
    rows[1]["samples"].pop("kld")
    table = " ".join(call("compare", "one", written(tmp_path, rows), "--workspace", space.root).stdout.split())
    assert "Differences with a p are paired by window or item" in table
    assert "KL divergence is not paired" in table


def test_every_text_that_both_files_have_is_compared(theirs: list[dict[str, Any]], tmp_path: Path) -> None:
    """By their contents: the names and the order do not matter."""
    theirs = [row for row in theirs if row["variant"] == "Q4"]
    rows = json.loads(json.dumps(theirs))
    (row,) = rows
    chat = {"text": {**row["text"], "name": "chat", "sha256": "c"}, "perplexity": row["perplexity"]}
    chat["divergence"] = row["divergence"] | {"kld_mean": 0.25}
    row["other_texts"] = {"chat": chat, "code": {**chat, "text": {**chat["text"], "name": "code", "sha256": "d"}}}
    row["samples"] |= {f"{kind} chat": row["samples"][kind] for kind in ("kld", "nll")}
    mine = written(tmp_path, rows).rename(tmp_path / "mine.jsonl")
    row["other_texts"] = {"text": {name: row[name] for name in ("text", "perplexity", "divergence")}}
    row |= chat | {"text": chat["text"] | {"name": "talk"}, "divergence": chat["divergence"] | {"kld_mean": 0.75}}
    ended = call("compare", mine, written(tmp_path, rows), "--workspace", tmp_path, "--format", "json")
    found = json.loads(ended.stdout)
    deltas = {one["figure"]: one["delta"] for one in found["differences"]}
    assert deltas == {
        "KL divergence over words": 0.0, "perplexity over words": 0.0,
        "KL divergence over chat": 0.5, "perplexity over chat": 0.0, "t": 0.0,
    }  # fmt: skip
    assert found["text"] == "words, chat, windows of 512 tokens"
    assert found["notes"] == ["code: measured only in A."]
    row["other_texts"] = {}
    row["text"]["sha256"] = "another"
    ended = call("compare", mine, written(tmp_path, rows), "--workspace", tmp_path)
    assert "the texts differ: words (hash w), chat (hash c), code (hash d) and talk (hash another)" in ended.stderr


def test_the_output_of_a_run_is_read_too(space: Workspace, theirs: list[dict[str, Any]], tmp_path: Path) -> None:
    events = [{"event": "started"}, {"event": "finished", "run": "r", "records": theirs}]
    found = compared(space, written(tmp_path, events), "--variant", "Q2")
    assert {one["variant"] for one in found["differences"]} == {"Q2"}
    table = call("compare", tmp_path / "theirs.jsonl", "one:Q2", "--workspace", space.root)
    assert table.returncode == 0
    assert "Text: words, windows of 512 tokens. Reference: BF16." in table.stdout


def in_text(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda row: row["text"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_text(sha256="other", name="novel"), "the texts differ: words (hash w) and novel (hash other)"),
        (in_text(window=2048), "the windows differ: 512 tokens and 2048 tokens"),
        (in_text(stride=64), "the windows differ: 512 tokens and 512 tokens with a stride of 64"),
        (in_text(windows_sha256="x"), "the vocabularies differ"),
        (in_text(reference_model="x"), "both references are called BF16, but they are files of other models"),
        (lambda row: row.update(reference="F16"), "the references differ: BF16 and F16"),
        (lambda row: row.pop("text"), "the records do not say which text they are from"),
    ],
)
def test_other_conditions_are_rejected_in_one_line(
    space: Workspace,
    theirs: list[dict[str, Any]],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    rows = json.loads(json.dumps(theirs))
    for row in rows:
        change(row)
    found = call("compare", "one", written(tmp_path, rows), "--workspace", space.root)
    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no records"),
        (b'{"results": {"gsm8k": {}}}', "is not the JSON of bitsweep"),
        (b"[1, 2]", "is not the JSON of bitsweep"),
        (b'{"variant": "Q4", "kind"', "line 1 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b"\xff\xfe\x00", "is not text"),
        (b'{"event": "started"}\n', "the run did not finish"),
    ],
)
def test_a_file_of_another_program_is_rejected(space: Workspace, tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "foreign.json"
    file.write_bytes(content)
    found = call("compare", "one", file, "--workspace", space.root)
    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_file_that_does_not_exist(space: Workspace, tmp_path: Path) -> None:
    found = call("compare", "one", tmp_path / "none.json", "--workspace", space.root)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "none.json: cannot be read: No such file or directory" in found.stderr
