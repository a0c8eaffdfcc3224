"""A workspace of an earlier version: every result is found again, with identical figures.

`earlier/sweep.db` is its store, with a sweep and an ablation of micro. `expected.json` is what they printed, with the
versions of the packages that computed it, which are part of every key.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import presets
from sweep import devices
from sweep.commands import ablate
from sweep.execution.cells_to_run import cells_to_run
from sweep.execution.local import LocalHost
from sweep.jobs import ablation, model
from sweep.jobs.settings import ComputeResources
from sweep.planning.prepare import prepare
from sweep.planning.request import Request
from sweep.record import Speed
from sweep.report.csv_json import finite
from sweep.results.history import find_run
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace

EARLIER = Path(__file__).parent / "earlier"
EXPECTED: dict[str, Any] = json.loads((EARLIER / "expected.json").read_text())
MICRO = presets.builtin_models()["micro"]


class TwoThreadHost(LocalHost):
    """The machine that made the results: two threads, no GPU."""

    def resources(self, engines: Collection[str]) -> ComputeResources:
        return ComputeResources(2, dict.fromkeys(("llama.cpp", *engines), "cpu"))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / "w").mkdir()
    shutil.copy(EARLIER / "sweep.db", tmp_path / "w")
    (tmp_path / "text.txt").write_bytes(MICRO.text.read_bytes()[:6_000])
    (tmp_path / "calibration.txt").write_bytes(MICRO.calibration.read_bytes()[:40_000])
    for module in (model, ablation):
        monkeypatch.setattr(module, "version", EXPECTED["versions"].__getitem__)
    monkeypatch.setattr(devices, "placement", lambda: devices.Placement("cpu", 0))
    return Workspace(tmp_path / "w")


def test_a_sweep_finds_every_earlier_result(workspace: Workspace) -> None:
    request = Request(
        variants="=Q2_K,int8:sq-ph-dyn",
        imatrix="auto",
        calibration=workspace.root.parent / "calibration.txt",
        perplexity=(workspace.root.parent / "text.txt",),
        tasks=("micro_facts",),
        limit=6,
        max_gen_toks=8,
        gpu=("24GiB",),
        workspace=workspace.root,
    )
    plan = prepare(request, lambda _: None, TwoThreadHost()).plan
    assert plan.run == EXPECTED["run"]
    with Store(workspace.database) as store:
        assert cells_to_run(plan.cells, store, workspace.root) == []
        assert {cell.key for cell in plan.cells} == set(store.statuses(cell.key for cell in plan.cells))
        found = [finite(record.to_json()) for record in records(plan, store)]
    assert _without_new(found) == EXPECTED["records"]


def test_earlier_runs_have_the_same_records(workspace: Workspace) -> None:
    plan = find_run(workspace, EXPECTED["run"])
    with Store(workspace.database) as store:
        found = [finite(record.to_json()) for record in records(plan, store)]
    assert _without_new(found) == EXPECTED["records"]


def test_an_ablation_finds_every_earlier_recipe(workspace: Workspace) -> None:
    request = ablate.AblationRequest(
        "micro",
        EARLIER / "space.toml",
        calibration=str(workspace.root.parent / "calibration.txt"),
        samples=4,
        length=64,
        perplexity=workspace.root.parent / "text.txt",
        window=128,
        windows=2,
        device="cpu",
        workspace=workspace.root,
    )
    plan = ablate.prepare(request, lambda _: None)
    with Store(workspace.database) as store:
        assert cells_to_run(plan.cells, store, workspace.root) == []
    found, _ = ablate.ablate(plan, lambda _: None)
    assert finite(found.to_json())["points"] == EXPECTED["points"]


def _without_new(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without the fields that records did not have then. Those of the speed say that nothing is known."""
    later = ("figures", "implausible", "unfinished", "worse_than_rounding", "study", "projector", "image_divergence")
    later += ("text", "other_texts", "speed_at_depth", "reference_reason", "stopping", "speech")
    rows = [{name: value for name, value in row.items() if name not in later} for row in rows]
    unknown = finite(asdict(Speed(0.0, 0.0)))
    for row in rows:
        row["tasks"] = {name: {**score} for name, score in row["tasks"].items()}
        assert {score.pop("cluster_kind") for score in row["tasks"].values()} <= {"subjects"}
        assert (row["speed"].pop("prompt_tokens"), row["speed"].pop("decode_tokens")) == (512, 128)  # stored then too
        new = {name: value for name, value in row["speed"].items() if name not in EXPECTED["records"][0]["speed"]}
        assert new == {name: unknown[name] for name in new}
        row["speed"] = {name: value for name, value in row["speed"].items() if name not in new}
    return rows
