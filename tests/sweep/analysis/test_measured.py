"""Which divergences the runs of a workspace measured for a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_runs import Stored

from sweep.analysis.fit_candidates import MeasuredSpeed
from sweep.analysis.measured import measurements
from sweep.analysis.priors import RelativeKld
from sweep.jobs.settings import Settings
from sweep.record import Record
from sweep.results.plan import Plan
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace

NLL = np.full(4, 1.0)


def stored(run: str, klds: dict[str, float], *, model: str = "Qwen3-8B", mark: str = "") -> Stored:
    text = {"BF16": (NLL, None)} | {name: (NLL, np.full(4, kld)) for name, kld in klds.items()}
    return Stored(run, text=text, variants=tuple(text), model=model, mark=mark)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_divergences_of_a_run_are_found_and_that_of_the_reference_is_0(workspace: Workspace) -> None:
    stored("one", {"Q4_K_M": 0.05, "Q8_0": 0.001}).put(workspace)
    found = measurements(workspace, "Qwen3-8B").klds
    assert {name: one.kld for name, one in found.items()} == {"BF16": 0.0, "Q4_K_M": 0.05, "Q8_0": 0.001}


def test_reading_does_not_create_a_store(workspace: Workspace) -> None:
    assert measurements(workspace, "Qwen3-8B").klds == {}
    assert not workspace.database.exists()


def test_runs_of_another_model_are_ignored(workspace: Workspace) -> None:
    stored("one", {"Q4_K_M": 0.05}, model="Qwen3-4B").put(workspace)
    assert measurements(workspace, "Qwen3-8B").klds == {}


def test_divergences_from_different_references_are_not_mixed(workspace: Workspace) -> None:
    stored("old", {"Q4_K_M": 0.05, "Q8_0": 0.002}, mark="a").put(workspace)
    stored("new", {"Q4_K_M": 0.0001}, mark="b").put(workspace)
    losses = measurements(workspace, "Qwen3-8B").klds
    assert {name: loss.run for name, loss in losses.items()} == dict.fromkeys(("BF16", "Q4_K_M", "Q8_0"), "old")


def test_divergences_with_different_caches_are_not_mixed(workspace: Workspace) -> None:
    stored("plain", {"Q4_K_M": 0.05}, mark="a").put(workspace)
    replace(stored("small", {"Q4_K_M": 0.07, "Q8_0": 0.02}, mark="b"), settings=Settings(kv_type="q8_0")).put(workspace)
    found = measurements(workspace, "Qwen3-8B")
    # of two references that nothing says are the same, the one with more variants counts
    assert found.klds == {}
    assert {name: one.kld for name, one in found.other_caches["q8_0"].klds.items()} == {
        "BF16": 0.0,
        "Q4_K_M": pytest.approx(0.07),
        "Q8_0": pytest.approx(0.02),
    }


def test_runs_of_the_same_series_are_relatives(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_sizes(plan: Plan, store: Store) -> list[Record]:
        return [replace(one, file_bytes=2 * 10**9, bits_per_weight=4.0) for one in records(plan, store)]

    monkeypatch.setattr("sweep.results.records.records", with_sizes)  # stored runs have no sizes
    stored("one", {"Q4_K_M": 0.05}, model="Qwen3-4B").put(workspace)
    stored("two", {"Q4_K_M": 0.06}, model="Qwen3.5-4B").put(workspace)
    found = measurements(workspace, "Qwen3-8B")
    assert found.klds == {}
    assert found.relatives == [RelativeKld("Q4_K_M", pytest.approx(0.05), 4e9)]


def test_stable_speeds_are_found_with_their_placement_and_unstable_ones_are_not(workspace: Workspace) -> None:
    def run(name: str, timings: list[float] | float, settings: Settings, variant: str = "Q4_K_M") -> None:
        Stored(name, variants=(variant,), model="m", settings=settings, speeds={variant: timings}).put(workspace)

    run("in RAM", [20.0, 21.0, 22.0], Settings())
    run("with experts in RAM", [60.0] * 3, Settings(gpu_layers=999, cpu_moe=10))
    run("with another cache", [19.0] * 3, Settings(kv_type="q8_0"))
    run("disturbed", [10.0, 20.0, 40.0], Settings(), "Q2_K")
    run("of an earlier version", 30.0, Settings(), "Q3_K_M")
    found = measurements(workspace, "m").speeds
    assert set(found) == {"Q4_K_M"}
    assert set(found["Q4_K_M"]) == {MeasuredSpeed(21.0, "f16", 0), MeasuredSpeed(19.0, "q8_0", 0)}
