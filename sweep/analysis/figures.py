"""What the records say when read together: losses after Holm, recovery above chance. (Pareto sets: see fronts.)

Accuracy per bit is the *curve* of recovery above chance against bits per weight, and the gain per extra bit between
neighbours on its Pareto set. Plain accuracy / bits is not shown anywhere: half the bits hardly ever halve the accuracy
(a guess alone scores 1/4 of four choices), so that ratio crowns the smallest variant, however much it has lost.

Records may lack anything; a figure that is missing or not finite is None here, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, isfinite

import scipy  # scipy.special takes 0.15 s: it is loaded at its first use, which not every process comes to

from sweep import format as fmt
from sweep import statistics
from sweep.record import Record, TaskScore, Value

ALPHA = statistics.ALPHA


@dataclass(frozen=True)
class Figure:
    """A value and its standard error, None where it has none."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class TaskTest:
    """One variant on one task against its reference: p before and after Holm over all such tests of the sweep.

    `interval` is of 95 %; where the record has none, the normal one of the error.
    """

    variant: str
    task: str
    delta: float
    delta_stderr: float | None
    interval: tuple[float, float] | None
    p_value: float
    adjusted: float
    lower_is_better: bool

    @property
    def worse(self) -> bool:
        return self.delta > 0 if self.lower_is_better else self.delta < 0

    def loss(self, alpha: float = ALPHA) -> bool:
        return self.worse and self.adjusted < alpha

    def gain(self, alpha: float = ALPHA) -> bool:
        return self.delta != 0 and not self.worse and self.adjusted < alpha


def known(value: float | None) -> float | None:
    """The value, or None where it is missing, infinite or not a number."""
    return value if value is not None and isfinite(value) else None


def figure(value: float | None, stderr: float | None = None) -> Figure | None:
    return None if (value := known(value)) is None else Figure(value, known(stderr))


def reference_names(records: Iterable[Record]) -> set[str]:
    return {record.reference for record in records if record.reference is not None}


def is_reference(record: Record, records: Iterable[Record]) -> bool:
    """Whether some record (itself included) was compared with this one."""
    return record.variant in reference_names(records)


def task_base(record: Record) -> str | None:
    """The variant that its tasks are compared with: the reference or, where that is a file, another."""
    return record.task_reference or record.reference


def task_bases(records: Iterable[Record]) -> set[str]:
    return {base for record in records if (base := task_base(record)) is not None}


def compared_with(records: Iterable[Record]) -> str:
    """What task differences are to, in words."""
    others = {fmt.plain(r.task_reference) for r in records if r.task_reference not in (None, r.reference)}
    return " and ".join(sorted(others)) or "the reference"


def task_names(records: Iterable[Record]) -> list[str]:
    """Every task of the sweep once, in the order of first appearance."""
    return list(dict.fromkeys(task for record in records for task in record.tasks))


def clustered(records: Iterable[Record]) -> list[str]:
    """A sentence for the tasks whose errors and tests take subjects, and not items, as the independent units."""
    found = {task: score.clusters for record in records for task, score in record.tasks.items() if score.clusters}
    if not found:
        return []
    tasks = ", ".join(f"{fmt.plain(task)} ({count} subjects)" for task, count in found.items())
    return [f"Errors and tests treat whole subjects, not items, as independent: {tasks}."]


def task_scales(records: Iterable[Record]) -> dict[str, int]:
    """What to multiply a task's scores by to print them: 100 (percent) where all are shares, else 1."""
    scales: dict[str, int] = {}
    for record in records:
        for task, score in record.tasks.items():
            value = known(score.value)
            share = value is None or (0.0 <= value <= 1.0 and score.higher_is_better)
            scales[task] = min(scales.get(task, 100), 100 if share else 1)
    return scales


def by_size(records: Iterable[Record]) -> list[Record]:
    """From fewest to most bits per weight; what has no size comes last, in its old order."""

    def key(record: Record) -> tuple[float, float]:
        bits, size = known(record.bits_per_weight), known(record.file_bytes)
        return (float("inf") if bits is None else bits, float("inf") if size is None else size)

    return sorted(records, key=key)


def kld(record: Record) -> Figure | None:
    return None if record.divergence is None else figure(record.divergence.kld_mean, record.divergence.kld_stderr)


def perplexity(record: Record) -> Figure | None:
    return None if record.perplexity is None else figure(record.perplexity.value, record.perplexity.stderr)


def memory(record: Record) -> tuple[int, str] | None:
    """Bytes needed and where they come from: the prediction, or the measurement where nothing was predicted."""
    if record.memory.predicted_bytes is not None:
        return record.memory.predicted_bytes, "predicted"
    if record.memory.measured_bytes is not None:
        return record.memory.measured_bytes, "measured"
    return None


def further(records: Iterable[Record]) -> dict[str, Value]:
    """Of every figure of a further kind of measurement, by name, the first: it says how all of them are shown."""
    found: dict[str, Value] = {}
    for record in records:
        for name, value in record.figures.items():
            found.setdefault(name, value)
    return found


def _p_value(score: TaskScore) -> float | None:
    """The record's own p value; where it has none, the normal test of the paired difference."""
    p, delta, stderr = known(score.p_value), known(score.delta), known(score.delta_stderr)
    if p is not None:
        return p if 0.0 <= p <= 1.0 else None
    if delta is None or not stderr:
        return None
    return float(2.0 * scipy.special.ndtr(-abs(delta) / stderr))


def _interval(score: TaskScore) -> tuple[float, float] | None:
    low, high = known(score.delta_low), known(score.delta_high)
    if low is not None and high is not None:
        return low, high
    delta, stderr = known(score.delta), known(score.delta_stderr)
    if delta is None or stderr is None:
        return None
    half = statistics.HALF_INTERVAL * stderr
    return delta - half, delta + half


def task_tests(records: Sequence[Record]) -> dict[tuple[str, str], TaskTest]:
    """Every comparison of a variant with its reference, keyed (variant, task), Holm-corrected over all of them.

    Where every record knows its p after Holm it is taken: the run may have had more variants than are shown here.
    """
    found = [
        (record.variant, task, score, delta, p)
        for record in records
        for task, score in record.tasks.items()
        if (delta := known(score.delta)) is not None and (p := _p_value(score)) is not None
        if record.variant != task_base(record)
    ]
    stated = [q for *_, score, _, _ in found if (q := known(score.p_holm)) is not None]
    adjusted = stated if len(stated) == len(found) else statistics.holm([p for *_, p in found]).tolist()
    return {
        (variant, task): TaskTest(
            variant, task, delta, known(score.delta_stderr), _interval(score), p, q, not score.higher_is_better
        )
        for (variant, task, score, delta, p), q in zip(found, adjusted, strict=True)
    }


def recovery(records: Sequence[Record]) -> dict[str, dict[str, Figure]]:
    """Recovery above chance, (score - chance) / (reference - chance), by variant and task.

    A task counts where its reference stands at least two standard errors above chance: a ratio to something that may
    be zero says nothing. Metrics where less is better have no chance level and are left out.
    """
    named = {record.variant: record for record in records}
    kept: dict[str, dict[str, Figure]] = {}
    for record in records:
        base = named.get(task_base(record) or record.variant)
        if base is None or base.variant not in task_bases(records):
            continue
        for task, score in record.tasks.items():
            value = _recovery(score, base.tasks.get(task), itself=base is record)
            if value is not None:
                kept.setdefault(record.variant, {})[task] = value
    return kept


def _recovery(score: TaskScore, base: TaskScore | None, *, itself: bool) -> Figure | None:
    if base is None or base.metric != score.metric or not score.higher_is_better:
        return None
    value, reference, stderr = known(score.value), known(base.value), known(base.stderr)
    if value is None or reference is None or reference - base.chance <= 2.0 * (stderr or 0.0):
        return None
    if itself:
        return Figure(1.0, 0.0)
    own, paired = known(score.stderr), known(score.delta_stderr)
    error = None
    if own is not None and stderr is not None and paired is not None:
        error = statistics.recovery_stderr(value, reference, base.chance, own, stderr, paired)
    return Figure(statistics.recovery(value, reference, base.chance), error)


def mean_recovery(records: Sequence[Record]) -> dict[str, Figure]:
    """Recovery averaged over tasks, for the variants that have every task their reference recovers on.

    Tasks are independent sets of items, so the error of the mean is the root of the summed squares over their number.
    """
    single = recovery(records)
    named = {record.variant: record for record in records}
    means = {}
    for variant, tasks in single.items():
        base = task_base(named[variant]) or variant
        if set(tasks) != set(single.get(base, {})):
            continue  # a mean over other tasks is another figure
        errors = [task.stderr for task in tasks.values()]
        complete = [error for error in errors if error is not None]
        stderr = hypot(*complete) / len(tasks) if len(complete) == len(errors) else None
        means[variant] = Figure(sum(task.value for task in tasks.values()) / len(tasks), stderr)
    return means
