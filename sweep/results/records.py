"""Builds the records of a run: one per variant, from the results of its cells, with paired comparisons with the
reference."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from presets.ptq_study import study_row
from sweep.endings import Ending
from sweep.items import Item
from sweep.jobs.base import StoredJob, content_hash
from sweep.jobs.cell import Cell
from sweep.jobs.checkpoint import CheckpointResult
from sweep.jobs.export import ExportJob, ExportResult
from sweep.jobs.image_divergence import ImageDivergenceJob
from sweep.jobs.model import opener
from sweep.jobs.projector import ProjectorJob
from sweep.jobs.settings import ComputeResources
from sweep.jobs.speech import SPEECH_CACHE, SpeechJob
from sweep.jobs.speed import DepthJob, SizeResult, SpeedResult
from sweep.jobs.task import TaskResult
from sweep.jobs.task_rounds import TaskRoundsJob, TaskRoundsResult
from sweep.jobs.text import TextJob, TextResult
from sweep.jobs.text_plan import cell_name
from sweep.jobs.text_rounds import TextRoundsJob, TextRoundsResult
from sweep.measure.text_results import DivergenceResult, PerplexityResult
from sweep.methods.registry import method
from sweep.record import (
    DepthSpeed,
    Divergence,
    ImageDivergence,
    MeasuredText,
    Memory,
    Perplexity,
    Projector,
    Record,
    Samples,
    Speed,
    Stopping,
    TaskScore,
    TextFigures,
)
from sweep.results import paired_items
from sweep.results.plain_rounding import with_plain_rounding
from sweep.results.plan import Plan
from sweep.results.plausibility import with_doubts
from sweep.results.speech import speech_figures, speech_memory
from sweep.results.speed_again import second_cells
from sweep.results.steadiness import steadier, with_steadiness
from sweep.results.store import Outcome, Store
from sweep.results.text_rounds import why_stopped, with_last_rounds
from sweep.statistics import HALF_INTERVAL, cluster_stderr, compare_differences, compare_items, holm
from sweep.statistics.task_stopping import TaskEnding


def records(plan: Plan, store: Store) -> list[Record]:
    """A record for every variant of the plan, in the plan's order. Figures that are not measured (yet) are None."""
    run = _run_results(plan, store)
    rows = _with_second_speeds([_record(variant, run) for variant in plan.variants], run)
    rows = [_with_shared_perplexity(row, {one.variant: one for one in rows}) for row in rows]
    return _with_study(with_steadiness(with_plain_rounding(with_doubts(_holm(rows)))), plan.model)


def _with_shared_perplexity(row: Record, rows: Mapping[str, Record]) -> Record:
    """The record with a perplexity that can be compared with that of the reference, if the reference was measured on
    more windows: that of the reference, times the ratio of both over the windows of the variant."""
    base, own = rows.get(row.reference or ""), row.divergence
    if base is None or base is row or base.perplexity is None or row.perplexity is None or own is None:
        return row
    few, many = row.stopping.get("text"), base.stopping.get("text")
    if few is None or many is None or few.samples >= many.samples:
        return row
    known = own.perplexity_ratio, own.perplexity_ratio_stderr
    if known[0] is None or known[1] is None:
        return row
    ratio, value = known[0], base.perplexity.value * known[0]
    stderr = value * math.hypot(base.perplexity.stderr / base.perplexity.value, known[1] / ratio)
    factor = math.exp(HALF_INTERVAL * stderr / value)
    return replace(
        row, perplexity=replace(row.perplexity, value=value, stderr=stderr, low=value / factor, high=value * factor)
    )


def _with_study(rows: Sequence[Record], model: str) -> list[Record]:
    """The records with the figures of a published study for the same model, method and bits."""
    return [replace(row, study=study_row(model, row.variant)) for row in rows]


@dataclass(frozen=True)
class _RunResults:
    """A plan with the stored outcomes of its cells."""

    plan: Plan
    store: Store
    outcomes: Mapping[str, Outcome]

    @cached_property
    def cells(self) -> Mapping[tuple[str, str], Cell]:
        """The cells by variant and name."""
        return {(cell.variant, cell.name): cell for cell in self.plan.cells}

    @cached_property
    def results(self) -> Mapping[str, Any]:
        """The results by key."""
        results = {
            cell.key: self.outcomes[cell.key].result(cell, self.plan.run)
            for cell in self.plan.cells
            if cell.key in self.outcomes
        }
        return {key: result for key, result in results.items() if result is not None}

    def result(self, variant: str | None, name: str) -> Any:
        cell = self.cells.get((variant or "", name))
        return None if cell is None else self.results.get(cell.key)

    def task_base(self, variant: str) -> str | None:
        """The variant that a variant's tasks are compared with."""
        reference = self.plan.reference_of(variant)
        return self.file_base if reference == self.plan.reference else reference

    @cached_property
    def file_base(self) -> str | None:
        """The variant that tasks are compared with: the reference. If the reference is a file, the variant that the
        file was made from, or the one with the most bits per weight.

        None while no size is known, and if there are no two variants to compare.
        """
        plan = self.plan
        if plan.reference in plan.variants or len(plan.variants) < 2:
            return plan.reference if plan.reference in plan.variants else None
        if plan.made_of is not None:
            return plan.made_of
        bits = {
            cell.variant: result.bits_per_weight
            for cell in plan.cells
            if plan.reference_of(cell.variant) == plan.reference
            and isinstance(result := self.results.get(cell.key), ExportResult | SpeedResult | SizeResult)
        }
        return max(bits, key=bits.__getitem__, default=None)


def _run_results(plan: Plan, store: Store) -> _RunResults:
    plan = with_last_rounds(plan, store)
    return _RunResults(plan, store, store.outcomes(cell.key for cell in plan.cells))


def _holm(rows: list[Record]) -> list[Record]:
    """The records with Holm's adjusted p values. The family of tests is all compared variants and tasks of the run."""
    tests = [
        (record.variant, task, score.p_value)
        for record in rows
        for task, score in record.tasks.items()
        if score.p_value is not None
    ]
    adjusted = dict(zip([test[:2] for test in tests], holm([p for *_, p in tests]).tolist(), strict=True))
    return [
        replace(
            record,
            tasks={
                task: replace(score, p_holm=adjusted.get((record.variant, task)))
                for task, score in record.tasks.items()
            },
        )
        for record in rows
    ]


def notes(plan: Plan, store: Store) -> list[str]:
    """Notes for readers of the figures: each one once, with the variants that it is about."""
    run = _run_results(plan, store)
    plan = run.plan
    by_note: dict[str, list[str]] = {}
    for cell in plan.cells:
        for note in run.results[cell.key].notes if cell.key in run.results else ():
            by_note.setdefault(f"{cell.name}: {note}", []).append(cell.variant)
    everywhere = len(plan.variants)
    return [note if len(names) == everywhere else f"{note} ({', '.join(names)})" for note, names in by_note.items()]


def importance(plan: Plan, store: Store) -> str:
    """For people: the source of the importance matrix, and how much of the model it covers."""
    name = plan.about.get("imatrix")
    if name is None:
        return "none"
    lines = list(plan.about.get("imatrix_told", ()))
    collected = {cell.key: cell for cell in plan.cells if cell.name == "imatrix"}
    for key, outcome in store.outcomes(collected).items():
        result = outcome.result(collected[key], plan.run)
        lines += () if result is None else result.notes
    return "; ".join([name, *lines])


def _record(variant: str, run: _RunResults) -> Record:
    plan = run.plan
    skipped = plan.skipped.get(variant)
    if skipped is not None:
        return Record(
            variant=variant,
            kind=method(variant).kind,
            status="skipped",
            error=skipped.reason,
            file_bytes=skipped.file_bytes,
            bits_per_weight=skipped.bits_per_weight,
            memory=Memory(skipped.memory_bytes),
            **_references(run, variant),
            **_conditions(run, variant),
        )
    cells = plan.cells_of(variant)
    known = {cell.name: run.outcomes[cell.key] for cell in cells if cell.key in run.outcomes}
    results = {cell.name: run.results[cell.key] for cell in cells if cell.key in run.results}
    unfinished = {name: outcome.status for name, outcome in known.items() if outcome.status in tuple(Ending)}
    errors = {name: str(known[name].error) for name in unfinished}
    scores = {
        cell.name: _score(cell, result, run)
        for cell in cells
        if isinstance(result := run.results.get(cell.key), TaskResult)
    }
    speed = _only(results, SpeedResult)
    text: TextResult | None = results.get("text")
    predicted: SizeResult | None = _only(results, SizeResult)
    size = speed or predicted or _only(results, ExportResult) or _only(results, CheckpointResult)
    reference_text = run.result(plan.reference_of(variant), "text")
    return Record(
        variant=variant,
        kind=method(variant).kind,
        status=_status(len(cells), len(results), set(unfinished.values())),
        error=_error_text(errors),
        file_bytes=None if size is None else size.file_bytes,
        bits_per_weight=None if size is None else size.bits_per_weight,
        memory=speech_memory(results) or _memory(speed, predicted),
        perplexity=None if text is None else _perplexity(text.perplexity),
        divergence=None if text is None else _divergence(text.divergence, reference_text),
        tasks={task: score for task, (score, _) in scores.items()},
        speed=None if speed is None else _speed(speed),
        speed_at_depth=_depth_speeds(cells, run),
        **_references(run, variant),
        **_conditions(run, variant),
        figures={name: value for result in results.values() for name, value in result.figures.items()},
        unfinished=unfinished,
        projector=_projector(cells, run),
        image_divergence=_image_divergence(cells, run),
        speech=speech_figures(
            results,
            None if variant == plan.reference_of(variant) else run.result(plan.reference_of(variant), "speech"),
        ),
        text=_measured_text(cells, "text", run),
        other_texts=_other_texts(cells, run),
        stopping=_stopping(cells, run),
        samples=_window_samples(text, reference_units(plan, variant), variant == plan.reference_of(variant))
        | _other_samples(cells, run)
        | {f"task {task}": taken for task, (_, taken) in scores.items()},
    )


def _measured_text(cells: Sequence[Cell], name: str, run: _RunResults) -> MeasuredText | None:
    """The text that the cell `name` measures."""
    own = [cell.job for cell in cells if cell.name == name]
    job = next((job for job in own if isinstance(job, TextJob)), None)
    if job is None:
        return None
    result = run.result(cells[0].variant, name)
    settings = job.model.settings
    return MeasuredText(
        name=job.text.name,
        sha256=job.text.identity,
        window=settings.window,
        stride=settings.stride,
        windows_sha256=None if result is None else result.windows_sha256,
        reference_model=_reference_model(run.plan, cells[0].variant),
        text_windows_sha256=result.text_sha256 if isinstance(result, TextRoundsResult) else None,
    )


def _reference_model(plan: Plan, variant: str) -> str | None:
    """A hash of the model that a variant is compared with, which is the same on every machine: of the checkpoint and
    the quant that it was exported to, or of the user's file."""
    reference = plan.reference_of(variant)
    for cell in plan.cells_of(reference):
        if isinstance(cell.job, ExportJob):
            return content_hash({"model": cell.job.model, "quant": cell.job.label})
    model = plan.model_of(reference) if reference in plan.variants else None
    if model is not None:
        return content_hash({"content": model.content})
    files = (cell.job.baseline for cell in plan.cells_of(variant) if isinstance(cell.job, TextJob))
    return next((one for one in files if one is not None), None)


def _with_second_speeds(rows: list[Record], run: _RunResults) -> list[Record]:
    """The records with the steadier speed of those variants whose speed was measured again."""
    cells = second_cells(run.plan)
    outcomes = run.store.outcomes(cell.key for cell in cells.values())
    found = []
    for row in rows:
        cell = cells.get(row.variant)
        outcome = None if cell is None else outcomes.get(cell.key)
        if cell is not None and outcome is not None and outcome.status == "ok" and outcome.is_readable(cell.kind):
            again = replace(row, speed=_speed(outcome.result(cell, run.plan.run)))
            row = row if row.speed is None else steadier(row, again)
            row = row if row.speed is None else replace(row, speed=replace(row.speed, measurements=2))
        found.append(row)
    return found


def _projector(cells: Sequence[Cell], run: _RunResults) -> Projector | None:
    """The projector file of the variant with these cells."""
    for cell in cells:
        result = run.results.get(cell.key)
        if isinstance(cell.job, ProjectorJob) and result is not None:
            return Projector(cell.job.quant, result.file_bytes, result.memory_bytes)
    return None


def _image_divergence(cells: Sequence[Cell], run: _RunResults) -> dict[str, ImageDivergence]:
    """By task."""
    found = {}
    for cell in cells:
        result = run.results.get(cell.key)
        if isinstance(cell.job, ImageDivergenceJob) and result is not None and result.kld_mean is not None:
            figures = {field.name: getattr(result, field.name) for field in fields(ImageDivergence)}
            found[cell.job.task.name] = ImageDivergence(**figures)
    return found


def _other_texts(cells: Sequence[Cell], run: _RunResults) -> dict[str, TextFigures]:
    """By name of the text."""
    found = {}
    for cell in cells:
        result = run.results.get(cell.key)
        if isinstance(cell.job, TextJob) and cell.name == cell_name(cell.job.text) and result is not None:
            reference = run.result(run.plan.reference_of(cell.variant), cell.name)
            divergence = _divergence(result.divergence, reference)
            text = _measured_text(cells, cell.name, run)
            found[cell.job.text.name] = TextFigures(_perplexity(result.perplexity), divergence, text)
    return found


def _other_samples(cells: Sequence[Cell], run: _RunResults) -> dict[str, Samples]:
    """The samples of the texts beside the first one, which are paired only by the hash of their windows."""
    found: dict[str, Samples] = {}
    for cell in cells:
        result = run.results.get(cell.key)
        if isinstance(cell.job, TextJob) and cell.name == cell_name(cell.job.text) and result is not None:
            is_reference = cell.variant == run.plan.reference_of(cell.variant)
            own = _window_samples(result, result.windows_sha256, is_reference)
            found |= {f"{kind} {cell.job.text.name}": taken for kind, taken in own.items()}
    return found


def _stopping(cells: Sequence[Cell], run: _RunResults) -> dict[str, Stopping]:
    """By name of the cell, for the texts and tasks that were measured in rounds."""
    found = {}
    for cell in cells:
        result = run.results.get(cell.key)
        if result is None or run.outcomes[cell.key].status != "ok":
            continue
        if isinstance(cell.job, TextRoundsJob):
            found[cell.name] = Stopping(result.windows, result.of_windows, why_stopped(cell.job, result))
        if isinstance(cell.job, TaskRoundsJob):
            found[cell.name] = Stopping(result.n, max(result.n, result.of_items), result.ending)
    return found


def _only(results: Mapping[str, Any], cls: type[Any]) -> Any:
    """The result of this class; None if there is none."""
    return next((result for result in results.values() if isinstance(result, cls)), None)


def _error_text(errors: dict[str, str]) -> str | None:
    """The errors of all cells without a whole result: each one once, with the names of its cells."""
    cells: dict[str, list[str]] = {}
    for name, error in errors.items():
        cells.setdefault(error, []).append(name)
    return "; ".join(f"{', '.join(names)}: {error}" for error, names in cells.items()) or None


def _references(run: _RunResults, variant: str) -> dict[str, Any]:
    """The fields of Record for what the variant is compared with."""
    plan, reference = run.plan, run.plan.reference_of(variant)
    reason = plan.reference_reason if reference == plan.reference else None
    return {"reference": reference, "task_reference": run.task_base(variant), "reference_reason": reason}


def _conditions(run: _RunResults, variant: str) -> dict[str, Any]:
    """The fields of Record for the device and the settings of the measurement."""
    plan, speed = run.plan, run.cells.get((variant, "speed"))
    outcome = None if speed is None else run.outcomes.get(speed.key)
    resources: ComputeResources = plan.resources if outcome is None or outcome.resources is None else outcome.resources
    model = plan.model_of(variant)
    if model is None:
        return {"kv_type": plan.settings.kv_type}
    how = opener(model.opener)
    shown = {name: getattr(model.settings, name) for name in how.shown_settings}
    settings = {"threads": resources.threads, **shown, "engine": model.engine}
    cache = SPEECH_CACHE if any(isinstance(cell.job, SpeechJob) for cell in plan.cells_of(variant)) else None
    return {"kv_type": cache or model.settings.kv_type, "device": resources.device(how.engine), "settings": settings}


def _status(cells: int, done: int, endings: Collection[str]) -> str:
    """The status of a variant with `cells` cells, `done` of them with a result; the others ended in these ways."""
    worst = next((ending for ending in Ending if ending in endings), None)
    if worst is None:
        return "ok" if done == cells else "pending"
    return "partial" if done else worst


def _memory(result: SpeedResult | None, predicted: SizeResult | None) -> Memory:
    if result is None:
        return Memory() if predicted is None else Memory(predicted.memory_bytes)
    memory = result.memory
    return Memory(memory.predicted_bytes, memory.measured_bytes, memory.host_bytes, memory.device_bytes)


def _speed(result: SpeedResult) -> Speed:
    rates = result.speed
    return Speed(
        rates.prompt_tokens_per_s,
        rates.decode_tokens_per_s,
        result.load_seconds,
        prompt_low=min(rates.prompt_runs, default=None),
        prompt_high=max(rates.prompt_runs, default=None),
        decode_low=min(rates.decode_runs, default=None),
        decode_high=max(rates.decode_runs, default=None),
        prompt_runs=rates.prompt_runs,
        decode_runs=rates.decode_runs,
        other_cores=rates.other_cores,
        cores=rates.cores,
        prompt_tokens=rates.prompt_tokens,
        decode_tokens=rates.decode_tokens,
    )


def _depth_speeds(cells: Sequence[Cell], run: _RunResults) -> dict[str, DepthSpeed]:
    """The speeds of a variant with these cells after other tokens, by the number of these tokens."""
    found = {}
    for cell in cells:
        result = run.results.get(cell.key)
        if isinstance(cell.job, DepthJob) and result is not None:
            rates = result.speed
            found[str(cell.job.depth)] = DepthSpeed(
                rates.prompt_tokens_per_s,
                rates.decode_tokens_per_s,
                rates.prompt_runs,
                rates.decode_runs,
                rates.prompt_tokens,
                rates.decode_tokens,
            )
    return found


def _perplexity(result: PerplexityResult) -> Perplexity:
    return Perplexity(result.value, result.stderr, result.tokens, result.low, result.high)


def _divergence(result: DivergenceResult | None, reference: TextResult | None) -> Divergence | None:
    """The divergence with the noise floor of the reference."""
    if result is None:
        return None
    floor = None if reference is None else reference.noise_floor
    return replace(result.figures, noise_floor=None if floor is None else floor.kld_mean)


def reference_units(plan: Plan, variant: str, name: str = "text", *, in_any_order: bool = False) -> str | None:
    """A name for a variant's reference and the scored windows of the text of cells with this name. If it is equal for
    two variants, their divergences can be compared window by window.

    It is the key of the reference's first text cell, or the path of a reference file. None if there is no text. With
    `in_any_order` it is the same for windows in the order of the text and in random order.
    """
    jobs = {cell.variant: (cell.key, cell.job) for cell in plan.cells if cell.name == name}
    texts = {variant: (key, job) for variant, (key, job) in jobs.items() if isinstance(job, TextJob)}
    reference = plan.reference_of(variant)
    if reference in texts:
        key, job = texts[reference]
        if isinstance(job, TextRoundsJob):
            return (job.in_full if in_any_order else job.first_round).key(plan.resources)
        return key
    if variant not in texts:
        return None
    file = texts[variant][1].reference
    return str(None if file is None else file.name)


def _window_samples(text: TextResult | None, units: str | None, is_reference: bool) -> dict[str, Samples]:
    """The samples of a text, by window. A reference has divergence 0 from itself. A variant with another vocabulary has
    other windows."""
    if text is None or units is None:
        return {}
    nll = np.array(text.perplexity.window_nll)
    samples = {"nll": Samples(text.windows_sha256 or units, nll)}
    if is_reference:
        samples["kld"] = Samples(units, np.zeros_like(nll))
    elif text.divergence is not None:
        samples["kld"] = Samples(units, np.array(text.divergence.window_kld))
    return samples


def _score(cell: Cell, result: TaskResult, run: _RunResults) -> tuple[TaskScore, Samples]:
    own = run.store.items_of(cell, run.plan.run)
    units = paired_items.units(own)
    clusters = units.usable()
    row = paired_items.values(own)
    stderr: Any = result.stderr
    if clusters is not None and np.isclose(row.mean(), result.value, rtol=0.0, atol=1e-9):
        stderr = cluster_stderr(row, clusters)
    sharing = result.sharing
    score = TaskScore(
        metric=result.metric,
        value=result.value,
        stderr=stderr,
        n=result.n,
        chance=result.chance,
        higher_is_better=result.higher_is_better,
        other=dict(result.other),
        clusters=None if clusters is None else int(clusters.max()) + 1,
        cluster_kind=units.kind,
        sharing_questions=None if sharing is None else sharing.questions,
        sharing_difference=None if sharing is None else sharing.largest_difference,
        sharing_changed=None if sharing is None else sharing.changed_answers,
    )
    reference = run.cells.get((run.task_base(cell.variant) or "", cell.name))
    if reference is not None and reference.key != cell.key:
        base = run.store.items_of(reference, run.plan.run)
        score = _compared(score, cell.job, result, base, own)
    same_items = hashlib.sha256("\n".join(item.question_key for item in own).encode()).hexdigest()
    return score, Samples(same_items, row, clusters)


def _compared(
    score: TaskScore, job: StoredJob[Any], result: TaskResult, base: Sequence[Item], own: Sequence[Item]
) -> TaskScore:
    """The score with the comparison with the reference, if both answered the same items, or the variant only a part of
    them. In the latter case its value is the reference's on all items plus the difference on its own, so that it can be
    compared with scores on all items."""
    is_part = isinstance(result, TaskRoundsResult) and result.n < result.of_items
    known = {item.question_key: item for item in base}
    shared = [known[item.question_key] for item in own if item.question_key in known] if is_part else base
    same = [item.question_key for item in own] == [item.question_key for item in shared]
    after, before = paired_items.values(own), paired_items.values(shared)
    if not own or not same or not (np.isfinite(after).all() and np.isfinite(before).all()):
        return score
    score = replace(score, **_paired(shared, own))
    if not is_part or not isinstance(job, TaskRoundsJob) or not isinstance(result, TaskRoundsResult):
        return score
    p_value = {TaskEnding.NO_LOSS: 1.0, TaskEnding.LOSS: job.rule.level}.get(result.ending, score.p_value)
    everything = paired_items.values(base)
    shift = float(everything.mean() - before.mean())
    return replace(score, value=score.value + shift, stderr=_shifted_stderr(everything, before, after), p_value=p_value)


def _shifted_stderr(everything: paired_items.Values, before: paired_items.Values, after: paired_items.Values) -> float:
    """The standard error of the mean of `everything` (N,) plus that of the difference of `after` and `before` (n,),
    which are a random part of the items: that of a difference estimator (Cochran, 1977, "Sampling techniques")."""
    difference = after - before
    covariance = float(np.cov(before, difference)[0, 1]) if len(before) > 1 else 0.0
    variance = everything.var() / len(everything) + difference.var() / len(difference)
    return math.sqrt(max(0.0, variance + 2.0 * covariance / len(everything)))


def _paired(base: Sequence[Item], own: Sequence[Item]) -> dict[str, Any]:
    """The fields of TaskScore that compare with the reference."""
    units = paired_items.units(own)
    before, after = paired_items.values(base), paired_items.values(own)
    paired = compare_items(before, after, units.labels, fewest=units.fewest)
    fields: dict[str, Any] = {
        "delta": paired.delta,
        "delta_stderr": paired.delta_stderr,
        "delta_low": paired.low,
        "delta_high": paired.high,
        "p_value": paired.p_value,
        "flips": paired.flips,
        "answers_changed": paired_items.answers_changed(base, own),
    }
    gold_before, gold_after = paired_items.gold(base), paired_items.gold(own)
    if gold_before is not None and gold_after is not None:
        gold = compare_differences(gold_after - gold_before, units.labels, fewest=units.fewest)
        fields |= {"gold_delta": gold.delta, "gold_delta_stderr": gold.stderr, "gold_p_value": gold.p_value}
    return fields
