"""The jobs that measure the texts of a sweep: all of each text, or windows in random order until enough is known."""

from __future__ import annotations

from collections.abc import Iterable

from sweep.artefact import Artefact
from sweep.jobs.base import content_hash
from sweep.jobs.cell import PlannedJob, SweepInputs
from sweep.jobs.inputs import Baseline, TextFile
from sweep.jobs.model import MeasuredModel
from sweep.jobs.text import TextJob, part_identity
from sweep.jobs.text_rounds import TextRoundsJob
from sweep.measure.text_form import TextForm


def cell_name(text: TextFile) -> str:
    """The name of the cell of a text that is measured beside the first one, whose cell is "text"."""
    return f"text {text.name}"


def text_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    """A job for each text of the sweep. A model without a baseline writes its distributions for the others."""
    if inputs.text is None:
        return
    yield _planned("text", model.text_only, inputs.text, inputs, baseline, inputs.base_file)
    for text in inputs.other_texts:
        yield _planned(cell_name(text), model.text_only, text, inputs, inputs.text_references.get(text.identity), None)


def _planned(
    name: str,
    model: MeasuredModel,
    text: TextFile,
    inputs: SweepInputs,
    baseline: Baseline | None,
    base_file: Artefact | None,
) -> PlannedJob:
    windows = _needed(text, inputs.windows, model.settings.window)
    read = model.identity(inputs.resources) | {"text": text.identity} | part_identity(windows)
    own = inputs.artefact(f"reference-{content_hash(read)[:16]}.logprobs")
    job = TextJob(
        model,
        text,
        baseline=None if baseline is None else baseline.identity,
        reference=None if baseline is None else baseline.file,
        distributions=own if baseline is None and not inputs.single else None,
        base_file=base_file,
        by_itself=inputs.single,
        windows=windows,
    )
    reference = job.key(inputs.resources) if baseline is None else baseline.key
    if inputs.stop_rule is not None and reference not in inputs.whole_texts:
        job = _in_rounds(job, inputs)
    return PlannedJob(name, job, () if baseline is None or baseline.key is None else (baseline.key,))


def _in_rounds(job: TextJob, inputs: SweepInputs) -> TextRoundsJob:
    """The first job of a measurement in rounds."""
    read = job.model.identity(inputs.resources) | {"text": job.text.identity} | part_identity(job.windows)
    folder = f"rounds-{content_hash(read | {'reference': job.baseline})[:16]}"
    return TextRoundsJob(
        job.model,
        job.text,
        baseline=job.baseline,
        reference=job.reference,
        distributions=None if job.distributions is None else inputs.artefact(f"{folder}.logprobs"),
        windows=job.windows,
        positions=inputs.artefact(f"{folder}.positions"),
        rule=None if job.baseline is None and not inputs.single else inputs.stop_rule,
    )


def _needed(text: TextFile, windows: int | None, window: int) -> int | None:
    """The number of windows, or None if the text surely has no more: a token of a text has at least one byte."""
    is_short = windows is not None and text.form is not TextForm.CONVERSATIONS and 0 < text.bytes <= windows * window
    return None if is_short else windows
