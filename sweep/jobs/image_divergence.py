"""The job that compares a variant with the reference at the tokens of right answers about images. For the reference
itself, the job writes the distributions that the others are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from converters.errors import InputError
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, content_hash
from sweep.jobs.cell import PlannedJob, SweepInputs
from sweep.jobs.inputs import Baseline, Task
from sweep.jobs.model import MeasuredModel, MeasurementJob
from sweep.jobs.settings import ComputeResources


@dataclass(frozen=True)
class ImageDivergenceResult(Result):
    """See `sweep.record.ImageDivergence`; all are None for the reference itself, or if there is none to compare with.
    `incomplete_reason` says why the reference cannot be used."""

    kld_mean: float | None = None
    kld_stderr: float | None = None
    kld_low: float | None = None
    kld_high: float | None = None
    top1_agreement: float | None = None
    tokens: int = 0
    answers: int = 0
    images: int = 0
    incomplete_reason: str | None = None

    @property
    def summary(self) -> str:
        return "written" if self.kld_mean is None else f"KLD {fmt.small(self.kld_mean)}"


@dataclass(frozen=True)
class ImageDivergenceJob(MeasurementJob[ImageDivergenceResult]):
    """Score the right answers of a task with images.

    `reference` is the file with the distributions to compare with, `baseline` their identity; both are None for the
    reference itself, which writes `distributions`.
    """

    kind = "image_divergence"
    result_type = ImageDivergenceResult

    model: MeasuredModel
    task: Task
    baseline: str | None = None
    reference: Artefact | None = None
    distributions: Artefact | None = None

    def identity(self, resources: ComputeResources) -> Any:
        own = {"task": self.task.identity, "reference": self.baseline}
        return {"kind": self.kind, "procedure": self.procedure, **self.model.identity(resources), **own}

    @property
    def output(self) -> Artefact | None:
        return self.distributions

    @property
    def timing_group(self) -> str:
        return self.task.name

    @property
    def work_units(self) -> int:
        return self.task.options.limit or 1

    def without_reference(self) -> Self:
        return replace(self, reference=None)

    def run(self, site: Site) -> ImageDivergenceResult:
        from dataclasses import asdict

        from sweep.measure.answers import right_answers
        from sweep.measure.image_divergence import compare_answers, write_answers
        from sweep.measure.reference import open_reference

        if self.reference is None and self.distributions is None:
            return ImageDivergenceResult()  # the reference has failed
        backend = site.open(self.model)
        answers = right_answers(backend, self.task.name, self.task.location(site.root), self.task.options)
        if self.reference is None:
            assert self.distributions is not None
            write_answers(backend, answers, site.path(self.distributions), site.report_progress)
            return ImageDivergenceResult()
        try:
            known = open_reference(site.path(self.reference))
            found = compare_answers(backend, answers, known, site.report_progress)
        except InputError as error:
            return ImageDivergenceResult(incomplete_reason=f"no divergence: {error}")
        return ImageDivergenceResult(**asdict(found))


def cell_name(task: str) -> str:
    """The name of the cell, after that of the task's own."""
    return f"{task} KLD"


def image_divergence_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    """A job for each task with images, unless nothing is compared. The first variant with a baseline writes its
    distributions for the others."""
    if inputs.single or inputs.image_references is None:
        return
    for task in inputs.tasks if model.images is not None else ():
        if not task.takes_images:
            continue
        known = inputs.image_references.get(task.name)
        identity = content_hash(model.identity(inputs.resources) | {"answers": task.identity})
        own = inputs.artefact(f"answers-{identity[:16]}.logprobs")
        job = ImageDivergenceJob(
            model,
            task,
            baseline=None if known is None else known.identity,
            reference=None if known is None else known.file,
            distributions=own if known is None else None,
        )
        yield PlannedJob(cell_name(task.name), job, () if known is None or known.key is None else (known.key,))
