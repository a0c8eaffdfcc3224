"""Pareto sets and the gain per bit, with their uncertainty: is a variant's lead over its neighbour more than the error?

A lead is tested by a paired bootstrap (Efron and Tibshirani, 1993) over the units that both variants share: windows of
the text, items of the tasks, or whole subjects if subjects are the independent units. Without samples in the records
there is no test, and nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import hypot
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from sweep import format as fmt
from sweep import statistics
from sweep.analysis import figures
from sweep.record import Record

SizeOf = Callable[[Record], float | None]


@dataclass(frozen=True)
class Lead:
    """By how much one variant's loss is below another's, with the standard error and the 95 % interval.

    An end of the interval that the samples do not determine is infinite.
    """

    delta: float
    stderr: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the 95 % interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True)
class Losses:
    """One measure of every variant, lower is better.

    `resampled` has the measure of each variant that has samples, under the same resamples, shape (R,); it is nan in a
    resample in which the measure is not defined. `units` is the number of independent units.
    """

    measure: str
    values: Mapping[str, float]
    resampled: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    units: int = 2

    def lead(self, ahead: str, behind: str) -> Lead | None:
        """The lead of one variant over another, or None if they share no samples.

        Resamples in which the measure is not defined do not count for the standard error.
        """
        if ahead not in self.resampled or behind not in self.resampled:
            return None
        drawn = self.resampled[behind] - self.resampled[ahead]
        if np.isnan(drawn).all():
            return None
        low, high = statistics.percentile_interval(drawn, self.units)
        return Lead(self.values[behind] - self.values[ahead], float(np.nanstd(drawn)), low, high)


@dataclass(frozen=True)
class ParetoSet:
    """The Pareto set: the variants for which no other variant is both smaller and better.

    `indistinguishable` maps a member whose lead over the next smaller member is within the error to that smaller
    member, which may be just as good. A member that is a key there is not used for the comparison of a larger one.
    """

    variants: frozenset[str] = frozenset()
    indistinguishable: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, variant: str) -> bool:
        return variant in self.variants


@dataclass(frozen=True)
class Gain:
    """Recovery gained per extra bit per weight, from one member of the Pareto set to the next larger one.

    If the records have samples, `stderr` and `significant` are of the paired difference. Without samples `significant`
    is None, and `stderr` treats the two recoveries as independent; they share items and reference, so it is too large.
    """

    smaller: str
    larger: str
    per_bit: float
    stderr: float | None
    significant: bool | None = None


def pareto_set(records: Sequence[Record], size_of: SizeOf, measures: Sequence[Losses]) -> ParetoSet:
    """The Pareto set, size against loss. With several measures (divergences from several references), their union."""
    variants: set[str] = set()
    indistinguishable: dict[str, str] = {}
    for losses in measures:
        points = [
            (x, y, record.variant)
            for record in records
            if (x := figures.finite(size_of(record))) is not None
            and (y := figures.finite(losses.values.get(record.variant))) is not None
        ]
        in_set = statistics.pareto_set([x for x, *_ in points], [y for _, y, _ in points])
        members = sorted(point for point, is_member in zip(points, in_set, strict=True) if is_member)
        variants |= {name for *_, name in members}
        smaller = members[0][2] if members else ""
        for *_, name in members[1:]:
            lead = losses.lead(name, smaller)
            if lead is not None and not lead.significant:
                indistinguishable[name] = smaller
            else:  # compared with the last distinguishable member: small steps may add up to a significant one
                smaller = name
    return ParetoSet(frozenset(variants), indistinguishable)


def by_reference(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each reference, the reference included. Figures from different references are not comparable."""
    names = sorted(figures.reference_names(records))
    if len(names) < 2:
        return [list(records)]
    return [[record for record in records if name in (record.variant, record.reference)] for name in names]


def per_reference(measure: Callable[[Sequence[Record]], list[Losses]], records: Sequence[Record]) -> list[Losses]:
    """A measure of the records, computed for the variants of each reference separately."""
    return [losses for group in by_reference(records) for losses in measure(group)]


def kld_losses(records: Sequence[Record]) -> list[Losses]:
    """Mean KL divergence in nats per token, for each reference separately. A reference's own divergence is 0."""
    found = []
    for name in sorted(figures.reference_names(records)):
        group = [record for record in records if record.variant == name or record.reference == name]
        diverged = {
            record.variant: value
            for record in group
            if (value := 0.0 if record.variant == name else _value(figures.kld(record))) is not None
        }
        found.append(Losses("mean KL divergence", diverged, *_resampled(group, "kld", diverged)))
    return found


def perplexity_losses(records: Sequence[Record]) -> list[Losses]:
    """Perplexity, in a list of one."""
    values = {r.variant: found.value for r in records if (found := figures.perplexity(r)) is not None}
    means, units = _resampled(records, "nll", values)
    return [Losses("perplexity", values, {variant: np.exp(mean) for variant, mean in means.items()}, units)]


def task_losses(records: Sequence[Record], task: str) -> list[Losses]:
    """The score of a task, negated if higher is better, in a list of one."""
    scores = {r.variant: score for r in records if (score := r.tasks.get(task))}
    values = {
        variant: -value if score.higher_is_better else value
        for variant, score in scores.items()
        if (value := figures.finite(score.value)) is not None
    }
    means, units = _resampled(records, f"task {task}", values)
    drawn = {variant: -mean if scores[variant].higher_is_better else mean for variant, mean in means.items()}
    return [Losses(task, values, drawn, units)]


def score_losses(records: Sequence[Record], tasks: Sequence[str]) -> list[Losses]:
    """Negated mean score over `tasks` of the records that have all of them, in a list of one.

    The scores must be shares of which more is better. Each task is resampled separately.
    """
    complete = [record for record in records if all(task in record.tasks for task in tasks)]
    means = {record.variant: fmean(record.tasks[task].value for task in tasks) for record in complete}
    values = {variant: -mean for variant, mean in means.items() if figures.finite(mean) is not None}
    drawn = [_resampled(complete, f"task {task}", values, seed=seed) for seed, task in enumerate(tasks)]
    resampled = {
        variant: -np.mean([means_of[variant] for means_of, _ in drawn], axis=0)
        for variant in values
        if all(variant in means_of for means_of, _ in drawn)
    }
    return [Losses("mean score", values, resampled, min(units for _, units in drawn))]


def recovery_losses(records: Sequence[Record]) -> list[Losses]:
    """Negated mean recovery, in a list of one. Each task is resampled separately, together with its reference.

    If the reference is no better than chance in a resample, recovery is not defined there (0/0, or the wrong sign). It
    is nan then, and widens the interval at both ends. This happens often if there are few items.
    """
    means, single = figures.mean_recovery(records), figures.recovery(records)
    named = {record.variant: record for record in records}
    drawn: dict[str, list[NDArray[np.float64]]] = {variant: [] for variant in means}
    fewest = []
    for seed, task in enumerate(figures.task_names(records)):
        scores, units = _resampled(records, f"task {task}", means, seed=seed)
        fewest.append(units)
        for variant in means:
            base = figures.task_reference_of(named[variant]) or variant
            if task in single[variant] and variant in scores and base in scores:
                chance = named[base].tasks[task].chance
                whole = np.where(scores[base] > chance, scores[base] - chance, np.nan)
                drawn[variant].append((scores[variant] - chance) / whole)
    complete = {variant: -np.mean(rows, axis=0) for variant, rows in drawn.items() if len(rows) == len(single[variant])}
    values = {variant: -mean.value for variant, mean in means.items()}
    return [Losses("mean recovery", values, complete, min(fewest, default=2))]


def _resampled(
    records: Sequence[Record], name: str, variants: Mapping[str, object], seed: int = 0
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Means of each variant under shared resamples, and the number of units.

    Only variants with samples of the same units as the first variant with samples are included, and of these the units
    that all of them have.
    """
    taken = {r.variant: r.samples[name] for r in records if r.variant in variants and name in r.samples}
    units = next((samples.units for samples in taken.values()), "")
    taken = {variant: samples for variant, samples in taken.items() if samples.units == units}
    shared = min((samples.values.size for samples in taken.values()), default=0)
    taken = {variant: samples.head(shared) for variant, samples in taken.items()}
    rows = [samples.values for samples in taken.values()]
    if len(rows) < 2 or len(rows[0]) < 2:
        return {}, 2
    clusters = next(iter(taken.values())).clusters
    means = statistics.bootstrap_means(np.stack(rows), clusters, seed=seed)
    return dict(zip(taken, means, strict=True)), len(rows[0]) if clusters is None else int(clusters.max()) + 1


def _value(found: figures.Figure | None) -> float | None:
    return None if found is None else found.value


def set_for_tables(records: Sequence[Record]) -> tuple[ParetoSet, str]:
    """The Pareto set that tables mark, by file size against the best available measure, and the measure's name."""
    compared = any(figures.kld(record) is not None and record.variant != record.reference for record in records)
    for measures, enough in (
        (kld_losses, compared),
        (recovery_losses, len(figures.mean_recovery(records)) > 1),
        (perplexity_losses, sum(figures.perplexity(record) is not None for record in records) > 1),
    ):
        if enough:
            losses = measures(records) if measures is kld_losses else per_reference(measures, records)
            return pareto_set(records, lambda record: record.file_bytes, losses), losses[0].measure
    return ParetoSet(), ""


def gains(records: Sequence[Record]) -> list[Gain]:
    """The gain per bit along the Pareto set of mean recovery, from the smallest variant up, for each reference."""
    return [gain for group in by_reference(records) for gain in _gains(group)]


def _gains(records: Sequence[Record]) -> list[Gain]:
    means, (losses,) = figures.mean_recovery(records), recovery_losses(records)
    pareto = pareto_set(records, lambda record: record.bits_per_weight, [losses])
    steps = [(r.variant, r.bits_per_weight or 0.0) for r in figures.by_size(records) if r.variant in pareto]
    found = []
    for (small, few), (large, many) in pairwise(steps):
        if many == few:
            continue
        lead = losses.lead(large, small)
        first, second = means[small].stderr, means[large].stderr
        stderr = None if first is None or second is None else hypot(first, second)
        stderr = lead.stderr if lead is not None else stderr
        found.append(
            Gain(
                smaller=small,
                larger=large,
                per_bit=(means[large].value - means[small].value) / (many - few),
                stderr=None if stderr is None else stderr / (many - few),
                significant=None if lead is None else lead.significant,
            )
        )
    return found


def why_indistinguishable(record: Record, pareto: ParetoSet) -> str:
    """A phrase for a variant that is a key of `pareto.indistinguishable`."""
    return f"in the Pareto set, but indistinguishable from {fmt.plain(pareto.indistinguishable[record.variant])}"
