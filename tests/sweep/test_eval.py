"""`sweep eval` measures one variant, with the same record as a sweep."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import call as sweep

import presets
from converters.export import export, open_source
from sweep.measure.reference import open_reference
from sweep.results.store import Store

MICRO = presets.builtin_models()["micro"]


def record(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr + done.stdout[-500:]
    (found,) = json.loads(done.stdout.splitlines()[-1])["records"]
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval") / "mine-Q4_K_M.gguf"
    export(open_source(MICRO.directory, "micro"), {"Q4_K_M": path})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "boolq").mkdir()
    rows = [{"passage": f"Boat {i} is red.", "question": f"is boat {i} red?", "gold": i % 2} for i in range(8)]
    (folder / "boolq" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_quantized_file_is_measured_as_it_is(file: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(MICRO.text.read_text()[:6000])
    arguments = ["--tasks", "boolq", "--task-data", data, "--limit", "4", "--perplexity", tmp_path / "text.txt"]
    options = ["--workspace", tmp_path / "w", "--format", "json"]
    found = record(sweep("eval", file, *arguments, *options))
    assert (found["variant"], found["status"], found["divergence"]) == ("gguf:mine-Q4_K_M.gguf", "ok", None)
    assert found["file_bytes"] == file.stat().st_size
    assert found["perplexity"]["value"] > 1
    assert found["tasks"]["boolq"]["n"] == 4
    assert found["tasks"]["boolq"]["delta"] is None
    assert not list(tmp_path.rglob("*.logprobs"))  # nothing is compared with it
    again = sweep("eval", file, *arguments, *options)
    assert json.loads(again.stdout.splitlines()[0])["todo"] == 0
    assert record(again) == found
    with Store(tmp_path / "w" / "sweep.db") as store:
        cells = {cell["name"]: cell["key"] for run in store.runs() for cell in run.plan["cells"]}
        items = store.items(cells["boolq"])
        outcome = store.outcomes([cells["boolq"]])[cells["boolq"]]
    assert len(items) == 4
    assert all(0.0 < (item.gold or 0.0) < 1.0 and item.subject == "boolq" for item in items)
    assert outcome.row is not None
    assert outcome.row["settings"]["limit"] == 4
    assert outcome.row["settings"]["data"] == str(data / "boolq")


def test_a_model_is_exported_to_one_quant_and_only_the_named_measurements_run(tmp_path: Path) -> None:
    options = ["--workspace", tmp_path, "--format", "json"]
    arguments = ["--quant", "Q4_K_M", "--tasks", "micro_form", "--limit", "2", "--max-gen-toks", "1"]
    done = sweep("eval", "micro", *arguments, *options)
    only = record(done)
    assert only["variant"] == "Q4_K_M"
    assert only["perplexity"] is None
    assert list(only["tasks"]) == ["micro_form"]
    assert only["speed"] is None
    report = sweep("report", "--workspace", tmp_path)
    assert report.returncode == 0, report.stderr
    assert "micro_form" in report.stdout
    cut = "micro_form: 2 of 2 answers did not end within the limit of 1 tokens; --max-gen-toks sets the limit"
    assert json.loads(done.stdout.splitlines()[-1])["notes"] == [cut]
    assert cut in report.stderr
    (page,) = tmp_path.rglob("report.html")
    assert cut in page.read_text()


def test_a_base_file_is_written_to_the_given_path(file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(MICRO.text.read_text()[:6000])
    base = tmp_path / "base.kld"
    arguments = ["eval", file, "--perplexity", tmp_path / "text.txt", "--workspace", tmp_path / "w", "--format", "json"]
    plain = record(sweep(*arguments))
    assert record(sweep(*arguments, "--write-base", base)) == plain | {"speed": plain["speed"]}
    written = base.read_bytes()
    opened = open_reference(base)
    assert (opened.n_ctx, opened.first, opened.windows) == (512, 256, 3)
    again = sweep(*arguments, "--write-base", base)
    assert json.loads(again.stdout.splitlines()[0])["todo"] == 0
    base.unlink()
    repeated = sweep(*arguments, "--write-base", base)
    assert json.loads(repeated.stdout.splitlines()[0])["pending"] == [f"gguf:{file.name}/text"]
    assert base.read_bytes() == written
    base.write_bytes(written + b"more")  # another base file
    refused = sweep(*arguments, "--write-base", base)
    assert refused.returncode == 2
    assert (
        f"{base}: a file with other content exists; choose another name, or replace it with --force" in refused.stderr
    )
    assert base.read_bytes() != written
    assert sweep(*arguments, "--write-base", base, "--force").returncode == 0
    assert base.read_bytes() == written


@pytest.mark.slow
def test_a_perplexity_is_measured_until_it_is_precise(file: Path, tmp_path: Path) -> None:
    options = ["--perplexity", MICRO.text, "--window", "64", "--workspace", tmp_path / "w", "--format", "json"]
    few, many, full = (record(sweep("eval", file, *options, "--precision", to)) for to in ("5%", "3%", "full"))
    samples, of = ([one["stopping"]["text"][name] for one in (few, many, full)] for name in ("samples", "of"))
    assert samples[0] < samples[1] < samples[2] == of[0] == of[1] == of[2]
    for one, most in ((few, 5.0), (many, 3.0)):
        stopped = one["stopping"]["text"]["stopped"]
        assert float(stopped.removeprefix("± ").removesuffix(" %")) <= most
        low, value, high = (one["perplexity"][name] for name in ("low", "value", "high"))
        assert (high - low) / 2 / value == pytest.approx(most / 100, abs=most / 100)
        assert low < full["perplexity"]["value"] < high
    assert full["stopping"]["text"]["stopped"] == "all windows"
    whole = record(sweep("eval", file, *options[:-4], "--workspace", tmp_path / "other", "--format", "json"))
    assert whole["stopping"] == {}
    assert whole["perplexity"]["value"] == pytest.approx(full["perplexity"]["value"], rel=1e-4)


def test_a_limit_on_answers_repeats_only_tasks_that_generate(file: Path, tmp_path: Path) -> None:
    arguments = ["eval", file, "--tasks", "micro_facts,micro_form", "--limit", "2", "--workspace", tmp_path]
    arguments += ["--format", "json"]
    todo, records = [], []
    for bound in (["--max-gen-toks", "3"], [], ["--max-gen-toks", "2"]):
        done = sweep(*arguments, *bound)
        todo.append([name.rpartition("/")[2] for name in json.loads(done.stdout.splitlines()[0])["pending"]])
        records.append(record(done)["tasks"]["micro_facts"])
    assert todo == [["size", "micro_facts", "micro_form"], ["micro_form"], ["micro_form"]]
    assert records[0] == records[1] == records[2]


def test_input_that_cannot_be_measured_gives_one_line(file: Path, tmp_path: Path) -> None:
    (tmp_path / "humaneval").mkdir()
    row = {"task_id": "t", "prompt": "def f():\n", "test": "def check(f): pass", "entry_point": "f"}
    (tmp_path / "humaneval" / "HumanEval.jsonl").write_text(json.dumps(row))
    options = ["--workspace", tmp_path / "w"]
    cases: dict[str, list[str | Path]] = {
        "a GGUF file is measured as it is; --quant is for checkpoints": [file, "--quant", "Q8_0"],
        "--allow-code-execution allows that": [file, "--tasks", "humaneval", "--task-data", tmp_path],
        "leave --no-chat-template out": [file, "--tasks", "boolq", "--thinking", "on", "--no-chat-template"],
        "there is no such": [tmp_path / "absent.gguf"],
        "give one with --perplexity": [file, "--tasks", "boolq", "--write-base", tmp_path / "base.kld"],
        "leave --stride out": [file, "--stride", "100", "--write-base", tmp_path / "base.kld"],
        "leave --precision 2% out": [file, "--precision", "2%", "--write-base", tmp_path / "base.kld"],
        "so there is nothing to decide; choose full": [file, "--precision", "decide"],
        "exists and is not a base file": [file, "--write-base", file],
    }
    for message, arguments in cases.items():
        done = sweep("eval", *arguments, *options)
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_generated_code_runs_only_with_consent(file: Path, tmp_path: Path) -> None:
    (tmp_path / "humaneval").mkdir()
    tests = "def check(f):\n    assert f(2) == 3"
    row = {"task_id": "t", "prompt": "def f(x):\n    return x + 1\n", "test": tests, "entry_point": "f"}
    wrong = row | {"prompt": "def f(x):\n    return x\n"}
    (tmp_path / "humaneval" / "HumanEval.jsonl").write_text("\n".join(map(json.dumps, (row, wrong))))
    arguments = ["--tasks", "code", "--task-data", tmp_path, "--max-gen-toks", "1", "--allow-code-execution"]
    found = record(sweep("eval", file, *arguments, "--workspace", tmp_path / "w", "--format", "json"))
    assert found["tasks"]["humaneval"]["metric"] == "pass@1"
    assert found["tasks"]["humaneval"]["n"] == 2
    assert found["tasks"]["humaneval"]["value"] <= 0.5
