"""A workspace that the version before made: every result is found again, and reads to the digit as it did then.

`earlier/sweep.db` is its store, of a sweep and an ablation of micro; `expected.json` is what they printed, with the
versions of the packages that computed it, which are part of every key.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

import presets
from sweep import devices
from sweep.commands import ablate
from sweep.execution.local import LocalHost
from sweep.execution.pending import pending
from sweep.jobs import ablation, model
from sweep.jobs.settings import Where
from sweep.planning.preparing import prepare
from sweep.planning.request import Request
from sweep.report.csv_json import finite
from sweep.results.history import find_run
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace

EARLIER = Path(__file__).parent / "earlier"
EXPECTED: dict[str, Any] = json.loads((EARLIER / "expected.json").read_text())
MICRO = presets.builtin_models()["micro"]


class Host(LocalHost):
    """The machine that measured: two threads, no GPU."""

    def where(self, engines: Collection[str]) -> Where:
        return Where(2, dict.fromkeys(("llama.cpp", *engines), "cpu"))


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


def test_a_sweep_finds_every_result_under_its_key(workspace: Workspace) -> None:
    request = Request(
        variants="=Q2_K,int8:sq-ph-dyn",
        imatrix="auto",
        calibration=workspace.root.parent / "calibration.txt",
        perplexity=workspace.root.parent / "text.txt",
        tasks=("micro_facts",),
        limit=6,
        max_gen_toks=8,
        gpu=("24GiB",),
        workspace=workspace.root,
    )
    plan = prepare(request, lambda _: None, Host()).plan
    assert plan.run == EXPECTED["run"]
    with Store(workspace.database) as store:
        assert pending(plan.cells, store, workspace.root) == []
        assert {cell.key for cell in plan.cells} == set(store.statuses(cell.key for cell in plan.cells))
        found = [finite(record.to_json()) for record in records(plan, store)]
    assert _without_new(found) == EXPECTED["records"]


def test_its_runs_are_read_as_they_were_planned(workspace: Workspace) -> None:
    plan = find_run(workspace, EXPECTED["run"])
    with Store(workspace.database) as store:
        found = [finite(record.to_json()) for record in records(plan, store)]
    assert _without_new(found) == EXPECTED["records"]


def test_an_ablation_finds_every_recipe(workspace: Workspace) -> None:
    asked = ablate.AblationRequest(
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
    plan = ablate.prepare(asked, lambda _: None)
    with Store(workspace.database) as store:
        assert pending(plan.cells, store, workspace.root) == []
    found, _ = ablate.ablate(plan, lambda _: None)
    assert finite(found.to_json())["points"] == EXPECTED["points"]


def _without_new(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fields that records have had since."""
    return [{name: value for name, value in row.items() if name != "figures"} for row in rows]
