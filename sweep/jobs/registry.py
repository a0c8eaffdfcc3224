"""The tables of all kinds of jobs and of all measurements of a variant. To add one, add a line here or call
`register`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sweep.extensions import load_extensions
from sweep.lazy import import_object

if TYPE_CHECKING:
    from sweep.jobs.base import Job, StoredJob
    from sweep.jobs.cell import Measurement

# In the order in which they run for a variant
_STORED: dict[str, str | type[StoredJob[Any]]] = {
    "export": "sweep.jobs.export:ExportJob",
    "projector": "sweep.jobs.projector:ProjectorJob",
    "imatrix": "sweep.jobs.imatrix:ImatrixJob",
    "quantize": "sweep.jobs.int8_checkpoint:Int8CheckpointJob",
    "ptq": "sweep.jobs.ptq_checkpoint:PtqCheckpointJob",
    "speed": "sweep.jobs.speed:SpeedJob",
    "text": "sweep.jobs.text:TextJob",
    "task": "sweep.jobs.task:TaskJob",
    "image_divergence": "sweep.jobs.image_divergence:ImageDivergenceJob",
    "survey": "sweep.jobs.ablation:SurveyJob",
    "ablation": "sweep.jobs.ablation:RecipeJob",
    "ptq_ablation": "sweep.jobs.ptq_ablation:PtqSetupJob",
}
_OTHERS = {
    "fit": "sweep.jobs.fit:FitJob",
    "inputs": "sweep.jobs.input_checks:InputCheckJob",
    "sizes": "sweep.jobs.sizes:SizesJob",
    "projector_sizes": "sweep.jobs.projector:ProjectorSizesJob",
    "export_check": "sweep.jobs.sizes:ExportCheckJob",
    "prompts": "sweep.jobs.prompt_check:PromptCheckJob",
    "tokens": "sweep.jobs.token_check:TokenCheckJob",
    "vocabulary": "sweep.jobs.input_checks:VocabularyCheckJob",
    "cache_check": "sweep.jobs.input_checks:CacheCheckJob",
    "load_check": "sweep.jobs.input_checks:LoadCheckJob",
    "imatrix_check": "sweep.jobs.input_checks:ImatrixCheckJob",
    "calibration": "sweep.jobs.input_checks:CalibrationCheckJob",
}
_MEASUREMENTS: list[str | Measurement] = [
    "sweep.jobs.speed:speed_jobs",
    "sweep.jobs.text:text_jobs",
    "sweep.jobs.task:task_jobs",
    "sweep.jobs.image_divergence:image_divergence_jobs",
]


def register(job: type[StoredJob[Any]], measurement: Measurement | None = None) -> None:
    """Add a kind of job. If `measurement` is given, every sweep measures each variant with the jobs that it gives."""
    _STORED[job.kind] = job
    if measurement is not None:
        _MEASUREMENTS.append(measurement)


class UnknownJobKind(KeyError):
    """There is no kind of job with this name, most often because its extension is not loaded."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def job_class(name: str) -> type[Job[Any]]:
    """The class of jobs of this kind. Raises UnknownJobKind."""
    load_extensions()
    known = _STORED.get(name) or _OTHERS.get(name)
    if known is None:
        raise UnknownJobKind(name)
    job: type[Job[Any]] = import_object(known) if isinstance(known, str) else known
    return job


def stored_kinds() -> dict[str, type[StoredJob[Any]]]:
    """The classes of jobs whose results are stored, by kind, in the order in which they run for a variant."""
    load_extensions()
    return {name: job_class(name) for name in _STORED}  # type: ignore[misc]  # all in _STORED are StoredJob


def measurements() -> list[Measurement]:
    """All measurements, in the order in which they run for a variant."""
    load_extensions()
    return [import_object(one) if isinstance(one, str) else one for one in _MEASUREMENTS]
