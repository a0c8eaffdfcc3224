"""Several texts in one sweep: each has its reference, its figures and its column; the first is the headline."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import presets
from sweep.analysis.measured import measurements
from sweep.commands.run import prepare
from sweep.jobs.text import TextJob
from sweep.planning.request import Request
from sweep.workspace import Workspace

MICRO = presets.builtin_models()["micro"]
PLAIN = ("--variants", "=Q4_K_M,Q2_K", "--tasks", "none", "--measure", "text", "--window", "128")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plain text, and conversations."""
    folder = tmp_path_factory.mktemp("texts")
    paragraphs = MICRO.text.read_text()[:6_000].split("\n\n")
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}
        for asked, answered in zip(paragraphs[::2], paragraphs[1::2], strict=False)
    ]
    (folder / "plain.txt").write_text("\n\n".join(paragraphs))
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "plain.txt", folder / "chat.jsonl"


def records(*arguments: object) -> dict[str, dict[str, Any]]:
    ended = call("run", "micro", *PLAIN, *arguments, "--format", "json")
    assert ended.returncode == 0, ended.stderr
    return {row["variant"]: row for row in json.loads(ended.stdout.splitlines()[-1])["records"]}


def test_each_text_has_the_figures_that_it_has_alone(texts: tuple[Path, Path], tmp_path: Path) -> None:
    plain, chat = texts
    both = records("--perplexity", f"{plain},{chat}", "--workspace", tmp_path / "both")
    name = "chat.jsonl (conversations)"
    counted = measurements(Workspace(tmp_path / "both"), "micro").klds["Q2_K"]  # for `sweep fit`
    by_text = {"plain.txt": both["Q2_K"]["divergence"], name: both["Q2_K"]["other_texts"][name]["divergence"]}
    worst = max(by_text, key=lambda text: by_text[text]["kld_mean"])
    assert (counted.kld, counted.tokens) == (by_text[worst]["kld_mean"], f"tokens of {worst}")
    alone = records("--perplexity", chat, "--workspace", tmp_path / "alone")
    first = records("--perplexity", plain, "--workspace", tmp_path / "both")
    for variant in ("BF16", "Q4_K_M", "Q2_K"):
        own = both[variant]["other_texts"][name]
        for figures in ("perplexity", "divergence"):
            assert own[figures] == alone[variant][figures]
            assert both[variant][figures] == first[variant][figures]
        assert first[variant]["other_texts"] == alone[variant]["other_texts"] == {}
    kld = both["Q2_K"]["other_texts"][name]["divergence"]
    assert kld["kld_mean"] > both["Q4_K_M"]["other_texts"][name]["divergence"]["kld_mean"] > 0
    assert kld["kld_mean"] != both["Q2_K"]["divergence"]["kld_mean"]
    assert kld["noise_floor"] is not None
    printed = call("report", "--workspace", tmp_path / "both").stdout  # the latest run: of the plain text
    assert "chat.jsonl" not in printed
    again = call("run", "micro", *PLAIN, "--perplexity", plain, "--perplexity", chat, "--workspace", tmp_path / "both")
    assert f"{name} KLD: the same over this text." in again.stdout
    (run,) = re.findall(r"^Run (\S+) in ", again.stdout, re.MULTILINE)
    compared = call(
        "compare", f"{run}:Q4_K_M", f"{run}:Q2_K", "--workspace", tmp_path / "both", "--format", "json"
    ).stdout
    deltas = {(one["text"], one["figure"]): one["b"] - one["a"] for one in json.loads(compared)["text"]}
    own, other = both["Q4_K_M"], both["Q2_K"]
    assert deltas == {
        (text, figure): pytest.approx(after[figure][value] - before[figure][value])
        for text, before, after in (
            ("plain.txt", own, other),
            (name, own["other_texts"][name], other["other_texts"][name]),
        )
        for figure, value in (("perplexity", "value"), ("divergence", "kld_mean"))
    }
    file = tmp_path / "theirs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in both.values()))
    shared = call("compare", run, file, "--workspace", tmp_path / "both", "--format", "json").stdout
    figures = {one["figure"]: one for one in json.loads(shared)["differences"] if one["variant"] == "Q2_K"}
    assert set(figures) >= {f"{kind} over {text}" for kind in ("KL divergence", "perplexity") for text in by_text}
    assert all(one["delta"] == 0 and one["paired"] for one in figures.values() if " over " in one["figure"])
    call("report", run, "--csv", tmp_path / "records.csv", "--workspace", tmp_path / "both")
    heads = (tmp_path / "records.csv").read_text().splitlines()[0]
    assert f"other_texts.{name}.divergence.kld_mean" in heads


def test_names_stand_for_texts_and_wrong_texts_are_rejected(texts: tuple[Path, Path], tmp_path: Path) -> None:
    plain, chat = texts
    request = Request(
        variants="=Q4_K_M", tasks=("none",), perplexity=(Path("micro"), chat, Path("wikitext-2")),
        workspace=tmp_path, dry_run=True,
    )  # fmt: skip
    plan = prepare(request, lambda _: None).plan
    names = ["micro test text", "chat.jsonl (conversations)", "WikiText-2 test"]
    assert [plan.about["text"], *plan.about["other_texts"]] == names
    jobs = [cell.job for cell in plan.cells_of("Q4_K_M") if isinstance(cell.job, TextJob)]
    assert [job.text.name for job in jobs] == names
    assert len({job.baseline for job in jobs} - {None}) == 3  # each is compared with its own reference

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plain.txt").write_text("other " * 2_000)
    for given, said in {
        (plain, plain): "plain.txt is the same text as plain.txt; give it once",
        (plain, tmp_path / "absent.txt"): "absent.txt: there is no such text file (--perplexity); give a file",
    }.items():
        options = [word for text in given for word in ("--perplexity", text)]
        ended = call("run", "micro", *PLAIN, *options, "--workspace", tmp_path, "--dry-run")
        assert ended.returncode == 2
        assert said in ended.stderr
    two = call(
        "run", "micro", *PLAIN, "--perplexity", f"{plain},{tmp_path}/other/plain.txt", "--workspace", tmp_path,
        "--dry-run", "--format", "json",
    )  # fmt: skip
    shown = json.loads(two.stdout)
    assert (shown["text"], shown["other_texts"]) == (f"{plain.parent.name}/plain.txt", ["other/plain.txt"])


def test_a_bad_line_of_any_text_ends_the_run_before_it_starts(texts: tuple[Path, Path], tmp_path: Path) -> None:
    plain, chat = texts
    bad = tmp_path / "bad.jsonl"
    bad.write_text(chat.read_text() + '{"messages": "none"}\n')
    ended = call("run", "micro", *PLAIN, "--perplexity", f"{plain},{bad}", "--workspace", tmp_path / "w")
    assert ended.returncode == 2
    count = len(chat.read_text().splitlines())
    assert f"{bad}, line {count + 1}: is not a conversation" in ended.stderr
    assert not list((tmp_path / "w").rglob("*.gguf"))


def test_texts_of_one_name_are_told_apart(texts: tuple[Path, Path], tmp_path: Path) -> None:
    """Pipes have no name of their own, and folders may have the same name too: then the content tells them apart."""
    words = [b"one " * 2_000, b"two " * 2_000]
    with _piped(words[0]) as first, _piped(words[1]) as second:
        request = Request(
            variants="=Q4_K_M", tasks=("none",), perplexity=(first, second), workspace=tmp_path, dry_run=True
        )
        about = prepare(request, lambda _: None).plan.about
    names = [f"text from a pipe {hashlib.sha256(one).hexdigest()[:8]}" for one in words]
    assert [about["text"], *about["other_texts"]] == names
    files = [tmp_path / folder / "same/a.txt" for folder in "xy"]
    for file, content in zip(files, words, strict=True):
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    about = prepare(replace(request, perplexity=(*files, texts[0])), lambda _: None).plan.about
    names = [f"a.txt {hashlib.sha256(one).hexdigest()[:8]}" for one in words]
    assert [about["text"], *about["other_texts"]] == [*names, "plain.txt"]


@contextmanager
def _piped(content: bytes) -> Iterator[Path]:
    """The path of a pipe with this content, as a shell gives it for <(COMMAND)."""
    out, into = os.pipe()
    with os.fdopen(out, "rb"), os.fdopen(into, "wb") as writer:
        writer.write(content)
        writer.close()
        yield Path(f"/dev/fd/{out}")
