"""A failure during a sweep loses only the figures of its cell. All other cells are measured, and the record says
why."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from command_line import COMMAND, call

import presets
from converters.export import export, open_source
from converters.llamacpp.reader import read_header
from int8.tokenizer import load_tokenizer
from sweep.measure.reference import Reference

MICRO = presets.builtin_models()["micro"]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
NO_NUMBER = """
task: no_number
custom_dataset: !function data.load
dataset_path: local
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "1"
generation_kwargs: {until: ["\\n"], max_gen_toks: 2}
metric_list: [{metric: acc, aggregation: mean}]
process_results: !function data.score
"""
NO_NUMBER_CODE = """
from datasets import Dataset, DatasetDict

def load(**_):
    return DatasetDict({"test": Dataset.from_list([{"text": "one"}, {"text": "two"}])})

def score(doc, results):
    return {"acc": float("nan")}
"""


@dataclass(frozen=True)
class SweepEnd:
    code: int
    records: dict[str, dict[str, Any]]
    errors: list[str]


def ended(code: int, out: str, err: str) -> SweepEnd:
    assert "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "finished", err
    return SweepEnd(code, {record["variant"]: record for record in last["records"]}, err.splitlines())


def sweep(*arguments: str | Path) -> SweepEnd:
    done = call("run", *arguments, "--format", "json")
    return ended(done.returncode, done.stdout, done.stderr)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """In a new process: it can be disturbed, and huggingface_hub reads its environment when it is imported."""
    command = [*COMMAND, "run", *map(str, arguments), "--format", "json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(MICRO.text.read_text()[:12_000])
    return file


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model as a GGUF file."""
    file = tmp_path_factory.mktemp("good") / "good-BF16.gguf"
    export(open_source(MICRO.directory, "micro"), {"BF16": file}, threads=1)
    return file


def without_numbers(good: Path, file: Path) -> Path:
    """A copy whose last norm is NaN, so that every logit is NaN."""
    header = read_header(good)
    norm = next(tensor for tensor in header.tensors if tensor.name == "output_norm.weight")
    data = bytearray(good.read_bytes())
    at = header.data_offset + norm.offset
    data[at : at + 4] = np.float32(np.nan).tobytes()
    file.write_bytes(data)
    return file


@pytest.mark.slow
def test_a_reference_or_metric_without_numbers_and_a_small_context_fail_only_their_cells(
    good: Path, text: Path, tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    broken = without_numbers(good, tmp_path / "broken.gguf")
    tokenizer = load_tokenizer(MICRO.directory)
    small = make_model("small", n_vocab=1536, tokenizer=tokenizer, max_position_embeddings=256, **SMALL).gguf
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "no_number.yaml").write_text(NO_NUMBER)
    (tmp_path / "tasks" / "data.py").write_text(NO_NUMBER_CODE)
    tasks = ["--tasks", "micro_facts,no_number", "--task-data", tmp_path / "tasks", "--limit", "4"]
    arguments = ["micro", "--reference", f"gguf:{broken}", "--variants", f"=gguf:{good},gguf:{small}", *tasks]
    result = sweep(*arguments, "--perplexity", text, "--workspace", tmp_path / "w")
    assert (result.code, result.errors) == (1, [])
    reference, whole, short = result.records.values()

    assert reference["status"] == whole["status"] == short["status"] == "partial"
    assert "text: window 0: the model's logits are not finite numbers" in reference["error"]
    assert "log-likelihoods are not numbers (nan)" in reference["error"]
    assert (reference["perplexity"], reference["tasks"]) == (None, {})
    assert reference["speed"] is not None

    why = "text: no divergence, because gguf:broken.gguf could not be measured: window 0: the model's logits"
    assert why in whole["error"]
    assert whole["divergence"] is None
    assert 1.5 < whole["perplexity"]["value"] < 4
    assert "no_number: task no_number: its acc is not a number (nan)" in whole["error"]
    assert list(whole["tasks"]) == ["micro_facts"]
    assert whole["tasks"]["micro_facts"]["n"] == 4
    assert whole["tasks"]["micro_facts"]["delta"] is None

    assert "text: a perplexity window of 512 tokens is longer than the model's context of 256 tokens" in short["error"]
    assert list(short["tasks"]) == ["micro_facts"]


@pytest.mark.slow
def test_a_worker_out_of_memory_fails_only_its_cell_and_a_damaged_reference_only_the_divergence(
    good: Path, text: Path, tmp_path: Path
) -> None:
    """The kernel kills a process that uses too much memory with SIGKILL."""
    named = f"gguf:{good.name}"
    arguments = [
        "micro",
        "--reference",
        f"gguf:{good}",
        "--variants",
        "=Q4_0",
        "--tasks",
        "micro_facts",
        "--limit",
        "4",
    ]
    options = ["--perplexity", text, "--workspace", tmp_path / "w"]
    process = start(*arguments, *options)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if (event["event"], event["cell"]) == ("cell_started", f"{named}/speed"):
            (worker,) = psutil.Process(process.pid).children()
        if (event["event"], event["cell"]) == ("cell_started", f"{named}/text"):
            worker.kill()
            break
    out, err = process.communicate(timeout=300)
    result = ended(process.returncode, out, err)
    assert result.code == 1
    why = "the worker died (killed by SIGKILL): most likely out of memory"
    assert result.records[named]["error"] == f"text: {why}"
    assert result.records["Q4_0"]["error"] == f"text: no divergence, because {named} could not be measured: {why}"
    assert 1.5 < result.records["Q4_0"]["perplexity"]["value"] < 4
    assert result.records["Q4_0"]["tasks"]["micro_facts"]["delta"] is not None

    again = sweep(*arguments, *options)
    assert (again.code, again.records[named]["status"], again.records["Q4_0"]["status"]) == (0, "ok", "ok")
    assert again.records["Q4_0"]["perplexity"] == result.records["Q4_0"]["perplexity"]

    (made,) = tmp_path.rglob("*.logprobs")
    damaged = Path(shutil.copy(made, tmp_path / "damaged.logprobs"))
    with open(damaged, "r+b") as file:
        file.seek(Reference(made)._rows.offset)
        file.write(np.float32(np.nan).tobytes())
    last = sweep("micro", "--reference", damaged, "--variants", f"=Q4_0,gguf:{good}", *arguments[5:], *options)
    assert last.code == 1
    assert "damaged.logprobs: the divergence from this reference is not finite" in last.records["Q4_0"]["error"]
    assert last.records["Q4_0"]["perplexity"] == again.records["Q4_0"]["perplexity"]
    # a file has no task scores; the variant that it was made from has
    assert {record["task_reference"] for record in last.records.values()} == {named}
    assert last.records["Q4_0"]["tasks"] == again.records["Q4_0"]["tasks"]


def test_inputs_that_the_model_cannot_read_are_rejected_before_any_work(
    text: Path, tmp_path: Path, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_model("refused", n_vocab=300, max_position_embeddings=256, **SMALL)
    without_template = Path(shutil.copytree(MICRO.directory, tmp_path / "untold"))
    (without_template / "chat_template.jinja").unlink()
    short = tmp_path / "short.txt"
    short.write_text(MICRO.text.read_text()[:1500])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: a connection fails at once
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    cases: dict[str, list[str | Path]] = {
        "the window of 512 tokens, which --window can make smaller, is more than the 256": [small.directory],
        "windows of 512 tokens need at least 1024": ["micro", "--perplexity", short],
        "this model has no chat template": [without_template, "--tasks", "micro_facts", "--chat-template"],
        "task boolq: the task or its data cannot be loaded": ["micro", "--tasks", "boolq"],
    }
    for message, arguments in cases.items():
        options = [*arguments, *([] if "--tasks" in arguments else ["--tasks", "none"])]
        options += [] if "--perplexity" in arguments else ["--perplexity", text]
        options += ["--workspace", tmp_path / "w"]
        if "boolq" in arguments:
            process = start(*options)
            code, err = process.wait(timeout=120), process.communicate()[1]
        else:
            done = call("run", *options, "--format", "json")
            code, err = done.returncode, done.stderr
        assert code == 2, message
        assert message in err
        assert err.count("\n") == 1, err
    assert not list((tmp_path / "w").rglob("*.gguf"))
