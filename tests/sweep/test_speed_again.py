"""An unstable speed is measured again at the end of the run, once, and the steadier measurement is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import presets
from sweep import defaults
from sweep.artefact import Artefact
from sweep.execution.cells_to_run import cells_to_run
from sweep.jobs.cell import Cell
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.speed import SpeedJob
from sweep.record import Speed
from sweep.results.plan import Plan
from sweep.results.records import records
from sweep.results.speed_again import cells_to_measure_again, second_cells
from sweep.results.store import Outcome, Store

SHAKY = """
from sweep.results import steadiness

steadiness.LARGEST_RANGE = -1.0  # the timings of every speed differ by more
"""


def test_a_real_sweep_measures_unstable_speeds_again_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "shaky.py").write_text(SHAKY)
    (tmp_path / "text").write_text(presets.builtin_models()["micro"].text.read_text()[:5_000])

    def sweep() -> list[dict[str, Any]]:
        command = [sys.executable, "-c", "from sweep.cli import main; main()", "run", "micro", "--variants", "=BF16"]
        command += ["--tasks", "none", "--perplexity", str(tmp_path / "text"), "--keep", "none", "--format", "json"]
        command += ["--workspace", str(tmp_path / "w")]
        environment = os.environ | {"BITSWEEP_EXTENSIONS": str(tmp_path / "shaky.py")}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        return [json.loads(line) for line in ended.stdout.splitlines()]

    first = sweep()
    begun = [event["cell"] for event in first if event["event"] == "cell_started"]
    # --keep none removed the file, so it is made again
    assert begun == ["BF16/export", "BF16/speed", "BF16/text", "BF16/export", "BF16/speed again"]
    (record,) = first[-1]["records"]
    assert record["status"] == "ok"
    assert record["speed"]["measurements"] == 2
    assert record["speed"]["unstable"]
    assert 3 <= len(record["speed"]["decode_runs"]) <= 5
    assert record["speed"]["decode_low"] == min(record["speed"]["decode_runs"])
    assert list((tmp_path / "w" / "artefacts").rglob("*.gguf")) == []
    second = sweep()
    assert [event["event"] for event in second] == ["started", "finished"]
    assert second[-1]["records"] == first[-1]["records"]


def speed_row(decode: Sequence[float]) -> dict[str, Any]:
    middle = sorted(decode)[len(decode) // 2]
    rates = {"prompt_tokens_per_s": 6000.0, "decode_tokens_per_s": middle, "decode_runs": list(decode)}
    rates |= {"prompt_tokens": 512, "decode_tokens": 128, "prompt_repeats": 5, "decode_repeats": 5}
    memory = {"predicted_bytes": 1, "measured_bytes": 1}
    return {"speed": rates, "memory": memory, "load_seconds": 0.1, "file_bytes": 2_000_000, "bits_per_weight": 3.0}


@pytest.fixture
def plan() -> Plan:
    def cell(variant: str) -> Cell:
        model = MeasuredModel("gguf", Artefact(f"/{variant}.gguf"), "", "", Settings())
        return Cell(f"{variant} speed", variant, "speed", SpeedJob(model))

    variants = ("Q2_K", "Q4_K_M")
    about = {"model": "micro", "text": None, "tasks": {}, "engine": ""}
    cells = tuple(map(cell, variants))
    return Plan("r", "m", "p", "Q4_K_M", variants, Settings(), ComputeResources(2), about, cells)


def speeds(plan: Plan, store: Store) -> dict[str, Speed | None]:
    return {record.variant: record.speed for record in records(plan, store)}


def test_the_steadier_measurement_is_shown_and_the_first_one_stays(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "SPEED_MEASUREMENTS", 2)
    with Store(tmp_path / "sweep.db") as store:
        store.put("Q2_K speed", Outcome("ok", speed_row([60, 200, 400]), None, 1.0))
        store.put("Q4_K_M speed", Outcome("ok", speed_row([300, 310, 320]), None, 1.0))
        (again,) = cells_to_measure_again(plan, records(plan, store))
        assert (again.label, again.job) == ("Q2_K/speed again", plan.cells[0].job)
        assert cells_to_run([again], store, tmp_path) == [again]

        store.put(again.key, Outcome("failed", None, "the worker died", 1.0))
        assert speeds(plan, store)["Q2_K"] == replace(speeds(plan, store)["Q2_K"], measurements=1, unstable=True)

        store.put(again.key, Outcome("ok", speed_row([390, 400, 410]), None, 1.0))
        found = speeds(plan, store)
        assert found["Q2_K"].decode_runs == (390, 400, 410)
        assert (found["Q2_K"].measurements, found["Q2_K"].unstable) == (2, False)
        assert found["Q4_K_M"].measurements == 1
        assert cells_to_measure_again(plan, records(plan, store)) == []

        store.put(again.key, Outcome("ok", speed_row([50, 200, 900]), None, 1.0))
        found = speeds(plan, store)
        assert found["Q2_K"].decode_runs == (60, 200, 400)
        assert (found["Q2_K"].measurements, found["Q2_K"].unstable) == (2, True)
        assert cells_to_measure_again(plan, records(plan, store)) == []  # once, although it is still unstable


def test_every_variant_has_another_key_for_its_second_measurement(plan: Plan) -> None:
    keys = {cell.key for cell in plan.cells} | {cell.key for cell in second_cells(plan).values()}
    assert len(keys) == 4
