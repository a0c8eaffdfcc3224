"""Pareto sets and what each bit buys, with their uncertainty: is a point's lead over its neighbour more than the error?

A lead is judged by a paired bootstrap over what both variants share, windows of the text or items of the tasks
(whole subjects where those are the units). Records that have no samples make no such claim either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import hypot

import numpy as np
from numpy.typing import NDArray

from sweep import format as fmt
from sweep import statistics
from sweep.analysis import figures
from sweep.record import Record

Cost = Callable[[Record], float | None]


@dataclass(frozen=True)
class Lead:
    """By how much one variant's loss is below another's, its standard error and 95 % interval; an end that the samples
    leave open is infinite."""

    delta: float
    stderr: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True)
class Losses:
    """One measure of every variant, less being better, and the same under shared resamples (R,) of `units` units where
    samples are: nan in a resample that does not have the measure."""

    measure: str
    values: Mapping[str, float]
    resampled: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    units: int = 2

    def lead(self, ahead: str, behind: str) -> Lead | None:
        """None where the two share no samples. Its error is that over the resamples which have the measure."""
        if ahead not in self.resampled or behind not in self.resampled:
            return None
        drawn = self.resampled[behind] - self.resampled[ahead]
        if np.isnan(drawn).all():
            return None
        low, high = statistics.percentile_interval(drawn, self.units)
        return Lead(self.values[behind] - self.values[ahead], float(np.nanstd(drawn)), low, high)


@dataclass(frozen=True)
class Front:
    """The variants that no other beats on both axes.

    `unsure` names, for a member whose lead over the next smaller sure member is within its error, that smaller one: it
    may be just as good.
    """

    variants: frozenset[str] = frozenset()
    unsure: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, variant: str) -> bool:
        return variant in self.variants


@dataclass(frozen=True)
class Gain:
    """Recovery gained per extra bit per weight between two neighbours on the Pareto set, `smaller` to `larger`.

    `stderr` and `real` are of the paired difference where the records have samples. Without them `real` is None and
    `stderr` takes the two recoveries as independent: they share items and reference, so it errs high.
    """

    smaller: str
    larger: str
    per_bit: float
    stderr: float | None
    real: bool | None = None


def front(records: Sequence[Record], cost: Cost, measures: Sequence[Losses]) -> Front:
    """The Pareto set, cost against loss. Of several measures (divergences from several references) each has its own."""
    variants: set[str] = set()
    unsure: dict[str, str] = {}
    for losses in measures:
        points = [
            (x, y, record.variant)
            for record in records
            if (x := figures.known(cost(record))) is not None
            and (y := figures.known(losses.values.get(record.variant))) is not None
        ]
        kept = statistics.pareto_set([x for x, *_ in points], [y for _, y, _ in points])
        members = sorted(point for point, keep in zip(points, kept, strict=True) if keep)
        variants |= {name for *_, name in members}
        sure = members[0][2] if members else ""
        for *_, name in members[1:]:
            lead = losses.lead(name, sure)
            if lead is not None and not lead.real:
                unsure[name] = sure
            else:  # steps that are each within the error may add up to one that is not
                sure = name
    return Front(frozenset(variants), unsure)


def by_reference(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each reference, itself included: what is compared with different ones does not compare."""
    names = sorted(figures.reference_names(records))
    if len(names) < 2:
        return [list(records)]
    return [[record for record in records if name in (record.variant, record.reference)] for name in names]


def apart(measure: Callable[[Sequence[Record]], list[Losses]], records: Sequence[Record]) -> list[Losses]:
    """A measure taken of the records of each reference by themselves."""
    return [losses for group in by_reference(records) for losses in measure(group)]


def kld_losses(records: Sequence[Record]) -> list[Losses]:
    """Mean KL divergence, reference by reference: divergences from two references do not compare.

    A reference diverges from itself by 0.
    """
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
    values = {r.variant: found.value for r in records if (found := figures.perplexity(r)) is not None}
    means, units = _resampled(records, "nll", values)
    return [Losses("perplexity", values, {variant: np.exp(mean) for variant, mean in means.items()}, units)]


def task_losses(records: Sequence[Record], task: str) -> list[Losses]:
    scores = {r.variant: score for r in records if (score := r.tasks.get(task))}
    values = {
        variant: -value if score.higher_is_better else value
        for variant, score in scores.items()
        if (value := figures.known(score.value)) is not None
    }
    means, units = _resampled(records, f"task {task}", values)
    drawn = {variant: -mean if scores[variant].higher_is_better else mean for variant, mean in means.items()}
    return [Losses(task, values, drawn, units)]


def recovery_losses(records: Sequence[Record]) -> list[Losses]:
    """Mean recovery above chance; every task is resampled by itself, its reference along with it.

    A resample in which the reference is no better than chance has nothing to recover, 0/0 or a ratio of the wrong sign:
    it is nan, and counts against either end of an interval. Of few items there are many such.
    """
    means, single = figures.mean_recovery(records), figures.recovery(records)
    named = {record.variant: record for record in records}
    drawn: dict[str, list[NDArray[np.float64]]] = {variant: [] for variant in means}
    fewest = []
    for seed, task in enumerate(figures.task_names(records)):
        scores, units = _resampled(records, f"task {task}", means, seed=seed)
        fewest.append(units)
        for variant in means:
            base = figures.task_base(named[variant]) or variant
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
    """Means under shared resamples, of the variants that have samples of the same units as the first that has any, and
    how many units there are."""
    taken = {r.variant: r.samples[name] for r in records if r.variant in variants and name in r.samples}
    units = next((samples.units for samples in taken.values()), "")
    taken = {variant: samples for variant, samples in taken.items() if samples.units == units}
    rows = [samples.values for samples in taken.values()]
    if len(rows) < 2 or len(rows[0]) < 2:
        return {}, 2
    clusters = next(iter(taken.values())).clusters
    means = statistics.bootstrap_means(np.stack(rows), clusters, seed=seed)
    return dict(zip(taken, means, strict=True)), len(rows[0]) if clusters is None else int(clusters.max()) + 1


def _value(found: figures.Figure | None) -> float | None:
    return None if found is None else found.value


def overall(records: Sequence[Record]) -> tuple[Front, str]:
    """The Pareto set for the tables, file bytes against the best figure at hand, and that figure's name."""
    compared = any(figures.kld(record) is not None and record.variant != record.reference for record in records)
    for measures, enough in (
        (kld_losses, compared),
        (recovery_losses, len(figures.mean_recovery(records)) > 1),
        (perplexity_losses, sum(figures.perplexity(record) is not None for record in records) > 1),
    ):
        if enough:
            losses = measures(records) if measures is kld_losses else apart(measures, records)
            return front(records, lambda record: record.file_bytes, losses), losses[0].measure
    return Front(), ""


def gains(records: Sequence[Record]) -> list[Gain]:
    """Gain in mean recovery per extra bit per weight along its Pareto set, from the smallest up, by reference."""
    return [gain for group in by_reference(records) for gain in _gains(group)]


def _gains(records: Sequence[Record]) -> list[Gain]:
    means, (losses,) = figures.mean_recovery(records), recovery_losses(records)
    kept = front(records, lambda record: record.bits_per_weight, [losses])
    steps = [(r.variant, r.bits_per_weight or 0.0) for r in figures.by_size(records) if r.variant in kept]
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
                real=None if lead is None else lead.real,
            )
        )
    return found


def why_unsure(record: Record, front: Front) -> str:
    return f"in the Pareto set, but indistinguishable from {fmt.plain(front.unsure[record.variant])}"
