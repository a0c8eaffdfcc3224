"""Figures computed from several records: tests after Holm's correction, recovery. (Pareto sets are in `pareto_sets`.)

Accuracy per bit is the *curve* of recovery against bits per weight, and the gain per extra bit between neighbours in
its Pareto set. Accuracy divided by bits is not shown anywhere: half the bits rarely halve the accuracy (guessing among
four choices scores 1/4 already), so the smallest variant would win that ratio, however much it lost.

A record may lack any figure. A figure that is missing or not finite is None here, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, isfinite

import scipy  # scipy.special takes 0.15 s to load; this defers it to its first use, which many processes never reach

from sweep import format as fmt
from sweep import statistics
from sweep.record import Divergence, ImageDivergence, Record, TaskScore, Value

ALPHA = statistics.ALPHA


@dataclass(frozen=True)
class Figure:
    """A value and its standard error, None if it has none."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class TaskTest:
    """One variant on one task against its reference, tested.

    `delta` is the score minus the reference's score. `adjusted` is `p_value` after Holm's correction over all tests of
    the sweep. `interval` is the 95 % interval of `delta`; if the record has none, the normal interval from the error.
    With `is_bound`, both p values are upper bounds, because the comparison ended before all items were answered.
    """

    variant: str
    task: str
    delta: float
    delta_stderr: float | None
    interval: tuple[float, float] | None
    p_value: float
    adjusted: float
    lower_is_better: bool
    is_bound: bool = False

    @property
    def p_relation(self) -> str:
        """The corrected p value with a relation sign, for a sentence."""
        return f"≤ {self.adjusted:.2g}" if self.is_bound else fmt.p_relation(self.adjusted)

    @property
    def worse(self) -> bool:
        """Whether the variant scores worse than the reference, significantly or not."""
        return self.delta > 0 if self.lower_is_better else self.delta < 0

    def is_loss(self, alpha: float = ALPHA) -> bool:
        """Whether the variant is significantly worse."""
        return self.worse and self.adjusted < alpha

    def is_gain(self, alpha: float = ALPHA) -> bool:
        """Whether the variant is significantly better."""
        return self.delta != 0 and not self.worse and self.adjusted < alpha


def finite(value: float | None) -> float | None:
    """The value, or None if it is missing, infinite or not a number."""
    return value if value is not None and isfinite(value) else None


def figure(value: float | None, stderr: float | None = None) -> Figure | None:
    """A Figure, or None if the value is not finite."""
    return None if (value := finite(value)) is None else Figure(value, finite(stderr))


def reference_names(records: Iterable[Record]) -> set[str]:
    return {record.reference for record in records if record.reference is not None}


def is_reference(record: Record, records: Iterable[Record]) -> bool:
    """Whether any record (this one included) was compared with this one."""
    return record.variant in reference_names(records)


def task_reference_of(record: Record) -> str | None:
    """The variant that its task scores are compared with: the reference, or another one if the reference is a file."""
    return record.task_reference or record.reference


def task_references(records: Iterable[Record]) -> set[str]:
    return {base for record in records if (base := task_reference_of(record)) is not None}


def reference_words(records: Iterable[Record]) -> str:
    """What task scores are compared with, in words: "the reference", or names of variants."""
    others = {fmt.plain(r.task_reference) for r in records if r.task_reference not in (None, r.reference)}
    return " and ".join(sorted(others)) or "the reference"


def cache_words(records: Iterable[Record]) -> str:
    """The types of llama.cpp's KV cache, in words, with the variants that have another one than most; empty if all are
    f16."""
    names: dict[str, list[str]] = {}
    for record in records:
        if record.kind == "gguf":
            names.setdefault(record.kv_type, []).append(fmt.plain(record.variant))
    if set(names) <= {"f16"}:
        return ""
    chosen, *others = sorted(names, key=lambda kind: (kind == "f16", -len(names[kind])))
    return f"KV cache: {'; '.join([chosen, *(f'{kind} for ' + ', '.join(names[kind]) for kind in others)])}"


def task_names(records: Iterable[Record]) -> list[str]:
    """All tasks of the sweep, in the order of their first appearance."""
    return list(dict.fromkeys(task for record in records for task in record.tasks))


def subject_notes(records: Iterable[Record]) -> list[str]:
    """A sentence on the tasks whose errors and tests treat subjects or images, not items, as the independent units; or
    none. One for each of the two."""
    found = {task: score for record in records for task, score in record.tasks.items() if score.clusters}
    tasks: dict[str, list[str]] = {}
    for task, score in found.items():
        kind = score.cluster_kind
        tasks.setdefault(kind, []).append(f"{fmt.plain(task)} ({score.clusters:,} {kind})")
    return [
        f"Errors and tests treat whole {kind}, not items, as independent: {', '.join(own)}."
        for kind, own in tasks.items()
    ]


def task_scales(records: Iterable[Record]) -> dict[str, int]:
    """By task, the factor for printing its scores: 100 (percent) if all scores are shares, otherwise 1."""
    scales: dict[str, int] = {}
    for record in records:
        for task, score in record.tasks.items():
            value = finite(score.value)
            share = value is None or (0.0 <= value <= 1.0 and score.higher_is_better)
            scales[task] = min(scales.get(task, 100), 100 if share else 1)
    return scales


def by_size(records: Iterable[Record]) -> list[Record]:
    """From fewest to most bits per weight. Records without a size come last, in their given order."""

    def key(record: Record) -> tuple[float, float]:
        bits, size = finite(record.bits_per_weight), finite(files_bytes(record))
        return (float("inf") if bits is None else bits, float("inf") if size is None else size)

    return sorted(records, key=key)


def files_bytes(record: Record) -> int | None:
    """Bytes of all files that the variant needs: a projector file too."""
    images = 0 if record.projector is None else record.projector.file_bytes
    return None if record.file_bytes is None else record.file_bytes + images


def kld(record: Record) -> Figure | None:
    """Mean KL divergence in nats per token; with several texts, that of the first. Of a speech model, that along the
    reference's transcripts."""
    own = record.speech
    if own is not None:
        ends = None if own.kld_low is None or own.kld_high is None else (own.kld_high - own.kld_low) / 2
        return figure(own.kld_mean, None if ends is None else ends / statistics.HALF_INTERVAL)
    return None if record.divergence is None else divergence(record.divergence)


def largest_kld(record: Record) -> tuple[Figure, str] | None:
    """The largest mean KL divergence of the record's texts and tasks with images, and for which tokens it was measured;
    "" for those of the only text. Whoever uses them all must be content with each."""
    first = kld(record)
    if first is None:
        return None
    name = "" if not record.other_texts or record.text is None else f"tokens of {record.text.name}"
    others = {f"tokens of {text}": one.divergence for text, one in record.other_texts.items()}
    images = {f"right answers to {task}": one for task, one in record.image_divergence.items()}
    found = [(first, name)]
    found += [
        (own, tokens)
        for tokens, one in (others | images).items()
        if one is not None and (own := divergence(one)) is not None
    ]
    return max(found, key=lambda one: one[0].value)


def has_several_klds(record: Record) -> bool:
    """Whether it has a divergence of another text than the first, or of a task with images."""
    others = [own.divergence for own in record.other_texts.values()]
    return any(one is not None for one in (*others, *record.image_divergence.values()))


def divergence(found: Divergence | ImageDivergence) -> Figure | None:
    """The mean of a divergence, in nats per token."""
    return figure(found.kld_mean, found.kld_stderr)


def perplexity(record: Record) -> Figure | None:
    return None if record.perplexity is None else figure(record.perplexity.value, record.perplexity.stderr)


def reliable_speed(record: Record) -> float | None:
    """Decoded tokens per second; None if they were not measured or are unstable."""
    return None if record.speed is None or record.speed.unstable else finite(record.speed.decode_tokens_per_s)


def memory(record: Record) -> tuple[int, str] | None:
    """Bytes of memory, with "predicted" or "measured". The prediction has priority. A projector file is included."""
    images = 0 if record.projector is None else record.projector.memory_bytes
    if record.memory.predicted_bytes is not None:
        return record.memory.predicted_bytes + images, "predicted"
    if record.memory.measured_bytes is not None:
        return record.memory.measured_bytes + images, "measured"
    return None


def extra_figures(records: Iterable[Record]) -> dict[str, Value]:
    """Figures that extensions add, by name: the first value of each, which says how to show the column."""
    found: dict[str, Value] = {}
    for record in records:
        for name, value in record.figures.items():
            found.setdefault(name, value)
    return found


def _p_value(score: TaskScore) -> float | None:
    """The record's own p value; if it has none, from a normal test of the paired difference."""
    p, delta, stderr = finite(score.p_value), finite(score.delta), finite(score.delta_stderr)
    if p is not None:
        return p if 0.0 <= p <= 1.0 else None
    if delta is None or not stderr:
        return None
    return float(2.0 * scipy.special.ndtr(-abs(delta) / stderr))


def _interval(score: TaskScore) -> tuple[float, float] | None:
    low, high = finite(score.delta_low), finite(score.delta_high)
    if low is not None and high is not None:
        return low, high
    delta, stderr = finite(score.delta), finite(score.delta_stderr)
    if delta is None or stderr is None:
        return None
    half = statistics.HALF_INTERVAL * stderr
    return delta - half, delta + half


def task_tests(records: Sequence[Record]) -> dict[tuple[str, str], TaskTest]:
    """All comparisons of variants with their references, by (variant, task), Holm-corrected over all of them.

    If every record has a corrected p value, those are used: the run may have had more variants than `records`.
    """
    found = [
        (record, task, score, delta, p)
        for record in records
        for task, score in record.tasks.items()
        if (delta := finite(score.delta)) is not None and (p := _p_value(score)) is not None
        if record.variant != task_reference_of(record)
    ]
    stated = [q for *_, score, _, _ in found if (q := finite(score.p_holm)) is not None]
    adjusted = stated if len(stated) == len(found) else statistics.holm([p for *_, p in found]).tolist()
    return {
        (record.variant, task): TaskTest(
            record.variant,
            task,
            delta,
            finite(score.delta_stderr),
            _interval(score),
            p,
            q,
            not score.higher_is_better,
            task in record.stopping and record.stopping[task].samples < record.stopping[task].of,
        )
        for (record, task, score, delta, p), q in zip(found, adjusted, strict=True)
    }


def recovery(records: Sequence[Record]) -> dict[str, dict[str, Figure]]:
    """Recovery, (score - chance) / (reference's score - chance), by variant and task.

    A task is left out unless its reference is more than two standard errors above chance: a ratio to a number that may
    be zero means nothing. Metrics for which lower is better have no chance level and are left out too.
    """
    named = {record.variant: record for record in records}
    recovered: dict[str, dict[str, Figure]] = {}
    for record in records:
        base = named.get(task_reference_of(record) or record.variant)
        if base is None or base.variant not in task_references(records):
            continue
        for task, score in record.tasks.items():
            value = _recovery(score, base.tasks.get(task), itself=base is record)
            if value is not None:
                recovered.setdefault(record.variant, {})[task] = value
    return recovered


def _recovery(score: TaskScore, base: TaskScore | None, *, itself: bool) -> Figure | None:
    if base is None or base.metric != score.metric or not score.higher_is_better:
        return None
    value, reference, stderr = finite(score.value), finite(base.value), finite(base.stderr)
    if value is None or reference is None or reference - base.chance <= 2.0 * (stderr or 0.0):
        return None
    if itself:
        return Figure(1.0, 0.0)
    own, paired = finite(score.stderr), finite(score.delta_stderr)
    error = None
    if own is not None and stderr is not None and paired is not None:
        error = statistics.recovery_stderr(value, reference, base.chance, own, stderr, paired)
    return Figure(statistics.recovery(value, reference, base.chance), error)


def mean_recovery(records: Sequence[Record]) -> dict[str, Figure]:
    """Recovery averaged over tasks, for the variants that have a recovery on every task on which their reference has.

    Tasks are independent sets of items, so the error of the mean is the root of the summed squares divided by their
    number.
    """
    single = recovery(records)
    named = {record.variant: record for record in records}
    means = {}
    for variant, tasks in single.items():
        base = task_reference_of(named[variant]) or variant
        if set(tasks) != set(single.get(base, {})):
            continue  # a mean over other tasks is not comparable
        errors = [task.stderr for task in tasks.values()]
        complete = [error for error in errors if error is not None]
        stderr = hypot(*complete) / len(tasks) if len(complete) == len(errors) else None
        means[variant] = Figure(sum(task.value for task in tasks.values()) / len(tasks), stderr)
    return means
