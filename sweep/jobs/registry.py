"""The tables of all kinds of jobs and of all measurements of a variant. To add one, add a line here or call
`register`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sweep.extensions import load_extensions
from sweep.lazy import import_object

if TYPE_CHECKING:
    from sweep.jobs.base import Job, StoredJob
    from sweep.jobs.cell import Measurement

# In the order in which they run for a variant
_STORED: dict[str, str | type[StoredJob[Any]]] = {
    "download": "sweep.jobs.download:DownloadJob",
    "export": "sweep.jobs.export:ExportJob",
    "projector": "sweep.jobs.projector:ProjectorJob",
    "imatrix": "sweep.jobs.imatrix:ImatrixJob",
    "quantize": "sweep.jobs.int8_checkpoint:Int8CheckpointJob",
    "ptq": "sweep.jobs.ptq_checkpoint:PtqCheckpointJob",
    "size": "sweep.jobs.speed:SizeJob",
    "speed": "sweep.jobs.speed:SpeedJob",
    "depth": "sweep.jobs.speed:DepthJob",
    "text": "sweep.jobs.text:TextJob",
    "text_rounds": "sweep.jobs.text_rounds:TextRoundsJob",
    "task": "sweep.jobs.task:TaskJob",
    "task_rounds": "sweep.jobs.task_rounds:TaskRoundsJob",
    "acceptance": "sweep.jobs.acceptance:AcceptanceJob",
    "speech": "sweep.jobs.speech:SpeechJob",
    "speech_speed": "sweep.jobs.speech:SpeechSpeedJob",
    "image_divergence": "sweep.jobs.image_divergence:ImageDivergenceJob",
    "survey": "sweep.jobs.ablation:SurveyJob",
    "ablation": "sweep.jobs.ablation:RecipeJob",
    "ptq_ablation": "sweep.jobs.ptq_ablation:PtqSetupJob",
}
_OTHERS = {
    "fit": "sweep.jobs.fit:FitJob",
    "inputs": "sweep.jobs.input_checks:InputCheckJob",
    "needle": "sweep.jobs.needle:NeedleJob",
    "sizes": "sweep.jobs.sizes:SizesJob",
    "file_sizes": "sweep.jobs.sizes:FileSizesJob",
    "type_choice": "sweep.jobs.type_choice:TypeChoiceJob",
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
SPEED, TEXT, TASKS, SPEECH = "speed", "text", "tasks", "speech"
"""The measurements that a user can choose, in addition to those of extensions."""
# Each with the name by which a user chooses it. Several measurements can have one name.
_MEASUREMENTS: list[tuple[str, str | Measurement]] = [
    (SPEED, "sweep.jobs.speed:speed_jobs"),
    (TEXT, "sweep.jobs.text_plan:text_jobs"),
    (TASKS, "sweep.jobs.task_plan:task_jobs"),
    (TASKS, "sweep.jobs.image_divergence:image_divergence_jobs"),
    (SPEED, "sweep.jobs.acceptance:acceptance_jobs"),
    (SPEECH, "sweep.jobs.speech:speech_jobs"),
]


def register(job: type[StoredJob[Any]], measurement: Measurement | None = None) -> None:
    """Add a kind of job. If `measurement` is given, every sweep measures each variant with the jobs that it gives,
    unless the user chooses other measurements; the name of this one is the job's kind."""
    _STORED[job.kind] = job
    if measurement is not None:
        _MEASUREMENTS.append((job.kind, measurement))


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


def measurements(chosen: Collection[str] = ()) -> list[Measurement]:
    """The measurements with the `chosen` names (all, if there are none), in the order in which they run for a
    variant. Without a measurement of speed, which includes the size, there is one of the size alone."""
    load_extensions()
    found = [one for name, one in _MEASUREMENTS if not chosen or name in chosen]
    size = ["sweep.jobs.speed:size_jobs"] if chosen and SPEED not in chosen else []
    return [import_object(one) if isinstance(one, str) else one for one in (*size, *found)]


def measurement_names() -> tuple[str, ...]:
    """The names by which a user chooses measurements."""
    load_extensions()
    return tuple(dict.fromkeys(name for name, _ in _MEASUREMENTS))
