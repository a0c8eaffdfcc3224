"""Plans of a model that does not exist."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sweep.artefact import Artefact
from sweep.jobs.cell import SweepInputs
from sweep.jobs.inputs import Origin, Task, TextFile
from sweep.jobs.settings import ComputeResources, Settings
from sweep.measure.task_options import TaskOptions
from sweep.methods.registry import parse_list, with_baselines
from sweep.planning.model import ResolvedModel
from sweep.planning.planner import PlanSpec, make_plan
from sweep.results.plan import Plan
from sweep.statistics.stopping import StopRule
from sweep.statistics.task_stopping import TaskStopRule

_SETTINGS, _RESOURCES = Settings(), ComputeResources()


def text_file(file: Path, words: str) -> TextFile:
    """Write a text file."""
    file.write_text(words)
    return TextFile(file.stem, Artefact.of(file), hashlib.sha256(words.encode()).hexdigest())


def _task(name: str, folder: Path | None) -> Task:
    if folder is None:
        return Task(name, options=TaskOptions(limit=3), identity=name)
    return Task(name, Artefact.of(folder), identity=name)


def planned(
    *names: str,
    text: TextFile | None = None,
    reference: str | None = None,
    settings: Settings = _SETTINGS,
    resources: ComputeResources = _RESOURCES,
    fingerprint: str = "f" * 64,
    task: str = "t",
    calibration: TextFile | None = None,
    stop_rule: StopRule | None = None,
    task_rule: TaskStopRule | None = None,
    task_folder: Path | None = None,
    **options: Any,
) -> Plan:
    """A plan for variants of the model "m". The reference is BF16 if it is one of them, otherwise the first."""
    variants = tuple(with_baselines(parse_list(names)))
    first = "BF16" if "BF16" in names else variants[0].name
    inputs = SweepInputs(
        origin=Origin("m", Artefact("/models/m"), fingerprint),
        settings=settings,
        resources=resources,
        folder="artefacts/m",
        text=text,
        tasks=(_task(task, task_folder),),
        calibration=calibration,
        stop_rule=stop_rule,
        task_rule=task_rule,
    )
    model = ResolvedModel("m", Path("/models/m"), fingerprint, 1024)
    return make_plan(PlanSpec(model, variants, reference or first, inputs, "mine", **options))
