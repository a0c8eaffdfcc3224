"""Real sweeps of the built-in models with int8 variants that are killed, interrupted, or run with --keep."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import presets

COMMAND = [sys.executable, "-c", "from sweep.cli import main; main()"]
RECIPE = "int8:sq-ph-dyn"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short text to measure and one to calibrate with."""
    folder = tmp_path_factory.mktemp("inputs")
    micro = presets.builtin_models()["micro"]
    (folder / "text.txt").write_text(micro.text.read_text()[:8_000])
    (folder / "calibration.txt").write_text(micro.calibration.read_text()[:20_000])
    return folder


def begin(inputs: Path, workspace: Path, model: str, *more: str) -> subprocess.Popen[str]:
    arguments = ["run", model, "--tasks", "none", "--perplexity", str(inputs / "text.txt")]
    arguments += ["--calibration", str(inputs / "calibration.txt"), "--workspace", str(workspace), "--format", "json"]
    return subprocess.Popen([*COMMAND, *arguments, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """The records of a run that succeeds."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return {record["variant"]: record for record in json.loads(out.splitlines()[-1])["records"]}


def wait_for(process: subprocess.Popen[str], cell: str, event: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answer = json.loads(line)
        if answer["event"] == event and answer["cell"] == cell:
            return
    raise AssertionError(f"{cell} never came to {event}")


def without_timings(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Records without the values that differ from run to run: speed and measured memory."""
    return {
        name: {**record, "speed": None, "memory": record["memory"]["predicted_bytes"]}
        for name, record in records.items()
    }


def artefacts_of(workspace: Path) -> set[str]:
    """The kinds of files that a sweep kept among the artefacts of its model, without locks and caches."""
    found = set((workspace / "artefacts").glob("*/*"))
    return {path.name.split("-")[0] + path.suffix for path in found if path.suffix in (".gguf", ".int8", ".logprobs")}


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The records of a sweep that ran without interruption."""
    return finished(begin(inputs, tmp_path_factory.mktemp("whole"), "micro", "--variants", f"={RECIPE}"))


@pytest.mark.parametrize(
    ("event", "keep", "kept"),
    [("cell_started", "all", {"micro.int8", "reference.logprobs"}), ("cell_progress", "none", set())],
)
def test_a_run_killed_while_quantizing_gives_the_same_records_when_it_is_resumed(
    event: str, keep: str, kept: set[str], inputs: Path, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """And `--keep` applies to int8 checkpoints."""
    arguments = (inputs, tmp_path, "micro", "--variants", f"={RECIPE}", "--keep", keep)
    process = begin(*arguments)
    wait_for(process, f"{RECIPE}/quantize", event)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = finished(begin(*arguments))
    assert without_timings(again) == without_timings(undisturbed)
    assert artefacts_of(tmp_path) == kept


def test_a_worker_killed_while_quantizing_fails_only_its_variant(inputs: Path, tmp_path: Path) -> None:
    process = begin(inputs, tmp_path, "micro", "--variants", f"={RECIPE},fq:sq")
    wait_for(process, f"{RECIPE}/quantize", "cell_progress")
    worker = max(psutil.Process(process.pid).children(recursive=True), key=lambda child: child.memory_info().rss)
    worker.kill()
    out, _ = process.communicate(timeout=300)
    records = {record["variant"]: record for record in json.loads(out.splitlines()[-1])["records"]}
    assert process.returncode == 1
    assert records["torch:BF16"]["status"] == records["fq:sq"]["status"] == "ok"
    assert records[RECIPE]["status"] == "failed"
    assert "killed" in records[RECIPE]["error"]


def test_ctrl_c_while_quantizing_leaves_no_partial_checkpoint(inputs: Path, tmp_path: Path) -> None:
    process = begin(inputs, tmp_path, "micro", "--variants", f"={RECIPE}")
    wait_for(process, f"{RECIPE}/quantize", "cell_progress")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip() == "sweep: interrupted; run the same command again to resume"
    assert not [path for path in tmp_path.rglob("*") if ".int8" in path.name]


def test_the_best_variant_is_kept_and_not_the_int8_checkpoint(inputs: Path, tmp_path: Path) -> None:
    """The report recommends BF16. Only the recommended variant's file stays."""
    finished(begin(inputs, tmp_path, "micro", "--variants", f"=Q8_0,{RECIPE}", "--keep", "best"))
    assert artefacts_of(tmp_path) == {"micro.gguf"}


def test_a_hybrid_model_with_experts_is_measured(inputs: Path, tmp_path: Path) -> None:
    records = finished(begin(inputs, tmp_path, "micro-moe", "--variants", f"={RECIPE},fq:sq-ph-dyn"))
    base = records["torch:BF16"]["perplexity"]["value"]
    real, fake = records[RECIPE], records["fq:sq-ph-dyn"]
    assert real["perplexity"]["value"] == pytest.approx(base, rel=0.02)
    assert real["perplexity"]["value"] == pytest.approx(fake["perplexity"]["value"], rel=1e-3)
    assert real["file_bytes"] < records["torch:BF16"]["file_bytes"]
    assert real["memory"]["measured_bytes"] > 0
