"""Every kind of job, and what a sweep measures of a variant. A kind is added by its line here, or by `register`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sweep.extensions import load_extensions
from sweep.lazy import import_object

if TYPE_CHECKING:
    from sweep.jobs.base import Job, StoredJob
    from sweep.jobs.cell import Measurement

# In the order in which a variant goes through them
_STORED: dict[str, str | type[StoredJob[Any]]] = {
    "export": "sweep.jobs.export:ExportJob",
    "imatrix": "sweep.jobs.imatrix:ImatrixJob",
    "quantize": "sweep.jobs.quantize:QuantizeJob",
    "speed": "sweep.jobs.speed:SpeedJob",
    "text": "sweep.jobs.text:TextJob",
    "task": "sweep.jobs.task:TaskJob",
    "survey": "sweep.jobs.ablation:SurveyJob",
    "ablation": "sweep.jobs.ablation:RecipeJob",
}
_OTHERS = {
    "fit": "sweep.jobs.fit:FitJob",
    "inputs": "sweep.jobs.inputs:InputsJob",
    "sizes": "sweep.jobs.sizes:SizesJob",
    "vet": "sweep.jobs.sizes:VetJob",
    "vocabulary": "sweep.jobs.inputs:VocabularyJob",
    "calibration": "sweep.jobs.inputs:CalibrationJob",
}
_MEASUREMENTS: list[str | Measurement] = [
    "sweep.jobs.speed:measure_speed_of",
    "sweep.jobs.text:measure_text_of",
    "sweep.jobs.task:measure_tasks_of",
]


def register(kind: type[StoredJob[Any]], measurement: Measurement | None = None) -> None:
    """Add a kind of job and, where every variant of a sweep is to be measured by it, what gives its jobs."""
    _STORED[kind.kind] = kind
    if measurement is not None:
        _MEASUREMENTS.append(measurement)


def kind(name: str) -> type[Job[Any]]:
    """The class of a kind's jobs. Raises KeyError."""
    load_extensions()
    known = _STORED.get(name) or _OTHERS[name]
    found: type[Job[Any]] = import_object(known) if isinstance(known, str) else known
    return found


def stored_kinds() -> dict[str, type[StoredJob[Any]]]:
    """Those whose results are kept, in the order in which a variant goes through them."""
    load_extensions()
    return {name: kind(name) for name in _STORED}  # type: ignore[misc]  # what stands in _STORED is stored


def measurements() -> list[Measurement]:
    """What gives the jobs that measure a variant, in their order."""
    load_extensions()
    return [import_object(one) if isinstance(one, str) else one for one in _MEASUREMENTS]
