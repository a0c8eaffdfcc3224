"""Plans of a model that is nowhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sweep.artefact import Artefact
from sweep.jobs.cell import Asked
from sweep.jobs.given import Origin, Task, TextFile
from sweep.jobs.settings import Settings, Where
from sweep.measure.task_options import TaskOptions
from sweep.methods.registry import parse_list, with_baselines
from sweep.planning.model import ResolvedModel
from sweep.planning.planner import Wanted, make_plan
from sweep.results.plan import Plan

_SETTINGS, _WHERE = Settings(), Where()


def text_file(file: Path, words: str) -> TextFile:
    """A file that holds the words."""
    file.write_text(words)
    return TextFile(file.stem, Artefact.of(file), hashlib.sha256(words.encode()).hexdigest())


def planned(
    *names: str,
    text: TextFile | None = None,
    reference: str | None = None,
    settings: Settings = _SETTINGS,
    where: Where = _WHERE,
    fingerprint: str = "f" * 64,
    task: str = "t",
    calibration: TextFile | None = None,
    **wanted: Any,
) -> Plan:
    """Variants of the model "m"; the reference is BF16 where that is among them, else the first."""
    variants = tuple(with_baselines(parse_list(names)))
    first = "BF16" if "BF16" in names else variants[0].name
    asked = Asked(
        origin=Origin("m", Artefact("/models/m"), fingerprint),
        settings=settings,
        where=where,
        folder="artefacts/m",
        text=text,
        tasks=(Task(task, options=TaskOptions(limit=3), identity=task),),
        calibration=calibration,
    )
    model = ResolvedModel("m", Path("/models/m"), fingerprint, 1024)
    return make_plan(Wanted(model, variants, reference or first, asked, "mine", **wanted))
