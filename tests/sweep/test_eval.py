"""`sweep eval` measures one thing with the records of a sweep."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import presets
from converters.export import export, open_source
from sweep.store import Store

COMMAND = [sys.executable, "-c", "from sweep.cli import main; main()"]
MICRO = presets.builtin_models()["micro"]


def sweep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300)


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


def test_a_quantized_file_and_a_model_at_its_quant_score_alike(file: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(MICRO.text.read_text()[:6000])
    asked = ["--tasks", "micro_sums,boolq", "--task-data", data, "--limit", "4", "--perplexity", tmp_path / "text.txt"]
    where = ["--workspace", tmp_path / "w", "--format", "json"]
    of_file = record(sweep("eval", file, *asked, *where))
    of_model = record(sweep("eval", "micro", "--quant", "Q4_K_M", *asked, *where))
    assert (of_file["variant"], of_model["variant"]) == ("gguf:mine-Q4_K_M.gguf", "Q4_K_M")
    assert of_file["status"] == of_model["status"] == "ok"
    assert of_file["divergence"] is None
    for name in ("perplexity", "tasks", "bits_per_weight"):
        assert of_file[name] == of_model[name]
    assert of_file["tasks"]["boolq"]["n"] == 4
    assert of_file["tasks"]["boolq"]["delta"] is None
    assert not list(tmp_path.rglob("*.logprobs"))  # nothing is compared with it
    again = sweep("eval", file, *asked, *where)
    assert json.loads(again.stdout.splitlines()[0])["todo"] == 0
    with Store(tmp_path / "w" / "sweep.db") as store:
        cells = {cell["name"]: cell["key"] for run in store.runs() for cell in run.plan["cells"]}
        items = store.items(cells["boolq"])
        outcome = store.outcomes([cells["boolq"]])[cells["boolq"]]
    assert len(items) == 4
    assert all(0.0 < (item.gold or 0.0) < 1.0 and item.subject == "boolq" for item in items)
    assert outcome.result is not None
    assert outcome.result["settings"]["limit"] == 4
    assert outcome.result["settings"]["data"] == str(data / "boolq")


def test_what_is_asked_for_is_measured_and_no_more(file: Path, tmp_path: Path) -> None:
    only = record(
        sweep("eval", file, "--tasks", "micro_form", "--limit", "1", "--workspace", tmp_path, "--format", "json")
    )
    assert only["perplexity"] is None
    assert list(only["tasks"]) == ["micro_form"]
    assert only["speed"]["prompt_tokens_per_s"] > 0
    report = sweep("report", "--workspace", tmp_path)
    assert report.returncode == 0, report.stderr
    assert "micro_form" in report.stdout


def test_what_cannot_be_measured_is_refused_in_a_line(file: Path, tmp_path: Path) -> None:
    (tmp_path / "humaneval").mkdir()
    row = {"task_id": "t", "prompt": "def f():\n", "test": "def check(f): pass", "entry_point": "f"}
    (tmp_path / "humaneval" / "HumanEval.jsonl").write_text(json.dumps(row))
    where = ["--workspace", tmp_path / "w"]
    cases = {
        "a GGUF file is measured as it is; --quant is for checkpoints": ["--quant", "Q8_0"],
        "allow that by --allow-code-execution": ["--tasks", "humaneval", "--task-data", tmp_path],
        "does not go with --no-chat-template": ["--tasks", "boolq", "--thinking", "on", "--no-chat-template"],
    }
    for message, arguments in cases.items():
        done = sweep("eval", file, *arguments, *where)
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert sweep("eval", tmp_path / "absent.gguf", *where).returncode == 2


@pytest.mark.slow
def test_code_of_a_model_is_run_with_consent(file: Path, tmp_path: Path) -> None:
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
