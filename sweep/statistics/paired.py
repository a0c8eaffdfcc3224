"""Differences of two rows of scores over the same items: size, error, interval, exact test, flips.

Sources: McNemar (1947) in its exact binomial form, and the randomization test that it is a case of (Fisher's sign
flips, Edgington and Onghena 2007); Bonett and Price (2012) for the interval of a paired difference of proportions,
recommended by Fagerland, Lydersen and Laake (2014); Dutta et al. (arXiv 2407.09141) for flips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.special takes 0.15 s: it is loaded at its first use, which not every process comes to
from numpy.typing import ArrayLike, NDArray

from sweep.statistics.clusters import cluster_freedom, cluster_stderr, cluster_sums, usable_clusters

CONFIDENCE = 0.95
HALF_INTERVAL = 1.96  # half of a normal interval at CONFIDENCE, in standard errors


@dataclass(frozen=True)
class Paired:
    """A mean difference over `n` units, its standard error, its interval at CONFIDENCE, and the two-sided p of none.

    `clusters` is how many subjects were taken as the independent units; None where the units themselves were.
    """

    delta: float
    stderr: float
    low: float
    high: float
    p_value: float
    n: int
    clusters: int | None = None


@dataclass(frozen=True)
class PairedComparison:
    """Variant against reference over the same `n` items; `delta` is variant minus reference, in the metric's unit.

    `p_value` is two-sided: the exact McNemar test where every item scores 0 or 1 (with subjects flipped as a whole
    where items are clustered), the paired t test otherwise. `flips` is the share of items whose score changed.
    """

    delta: float
    delta_stderr: float
    p_value: float
    flips: float
    n: int
    low: float
    high: float
    clusters: int | None = None


def _paired(reference: ArrayLike, variant: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(reference, np.float64), np.asarray(variant, np.float64)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(f"paired scores need two equal, non-empty rows of items, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("an item's score is not a finite number")
    return first, second


def _binary(*rows: NDArray[np.float64]) -> bool:
    return all(bool(np.isin(row, (0.0, 1.0)).all()) for row in rows)


def paired_delta(reference: ArrayLike, variant: ArrayLike) -> tuple[float, float]:
    """Mean of variant minus reference over n items, and its standard error sqrt(mean((d - mean d)^2) / n).

    For 0/1 scores with b items lost and c items won this is (c - b)/n with standard error
    sqrt(b + c - (b - c)^2 / n) / n, McNemar's own variance.
    """
    first, second = _paired(reference, variant)
    difference = second - first
    return float(difference.mean()), float(difference.std() / np.sqrt(difference.size))


def mcnemar(reference: ArrayLike, variant: ArrayLike) -> float:
    """Exact two-sided McNemar p of two rows of 0/1 scores: of the items that changed, is one half won?"""
    first, second = _paired(reference, variant)
    if not _binary(first, second):
        raise ValueError("McNemar's test needs scores of 0 and 1")
    lost, won = int(np.sum(first > second)), int(np.sum(second > first))
    return _sign_test(won, lost + won) if lost + won else 1.0


def _sign_test(ups: int, n: int) -> float:
    """Exact two-sided p of `ups` out of n where up and down are alike."""
    return float(min(1.0, 2.0 * scipy.special.bdtr(min(ups, n - ups), n, 0.5)))


def _fair_coin(n: int) -> NDArray[np.float64]:
    """Chances of 0 .. n heads of n tosses."""
    heads = np.arange(n + 1)
    ways = scipy.special.gammaln(n + 1) - scipy.special.gammaln(heads + 1) - scipy.special.gammaln(n - heads + 1)
    return np.exp(ways - n * np.log(2.0))


def sign_flip_test(differences: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Exact two-sided p that whole-numbered differences (n,) are as likely up as down: the chance that their sum, each
    sign drawn at random, is as far from 0 as it is.

    Differences of -1, 0 and 1 make it McNemar's test. With `clusters` (n,) each cluster's sum keeps together and flips
    as one, so that what is common to a subject counts once. Units that do not differ drop out.
    """
    row = np.asarray(differences, np.float64)
    if row.ndim != 1 or not np.array_equal(row, np.rint(row)):
        raise ValueError("the exact test needs a row of whole numbers")
    units = row if clusters is None else cluster_sums(row, np.unique(np.asarray(clusters), return_inverse=True)[1])
    sizes, counts = np.unique(np.abs(units[units != 0]).astype(int), return_counts=True)
    if sizes.tolist() == [1]:
        return _sign_test(int(np.sum(units > 0)), int(counts[0]))
    # distribution of sum(size * number of ups): one stretched binomial for each size, convolved
    chances = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        ups = np.zeros(size * count + 1)
        ups[::size] = _fair_coin(count)
        chances = np.convolve(chances, ups)
    total = int(np.sum(sizes * counts))
    sums = 2 * np.arange(total + 1) - total
    return float(min(1.0, chances[np.abs(sums) >= abs(int(units.sum()))].sum()))


def flips(reference: ArrayLike, variant: ArrayLike) -> float:
    """Share of items whose score changed, in either direction: (b + c) / n for 0/1 scores."""
    first, second = _paired(reference, variant)
    return float(np.mean(first != second))


def compare_differences(
    differences: ArrayLike,
    clusters: Sequence[str] | ArrayLike | None = None,
    *,
    counted: bool = False,
    confidence: float = CONFIDENCE,
) -> Paired:
    """Mean, error, interval and test of differences (n,) over the same units.

    `counted` says that they come from 0/1 scores: whole numbers, for which the test is exact and the interval is that
    of Bonett and Price: one item won and one lost are added, so that a few changed items, or none, do not pretend to
    certainty. Otherwise both are Student's t with n - 1 degrees of freedom.

    With at least MIN_CLUSTERS `clusters` (n,) the error is cluster-robust, t has their degrees of freedom, and counts
    are divided by the design effect. Raises ValueError for no units, or values that are not numbers.
    """
    row, _ = _paired(differences, differences)
    index = usable_clusters(clusters)
    plain = float(row.std() / np.sqrt(row.size))
    if index is not None and index.shape != row.shape:
        raise ValueError(f"every unit needs its cluster, got {row.shape} and {index.shape}")
    groups = None if index is None else int(index.max()) + 1
    stderr = plain if index is None else cluster_stderr(row, index)
    # The interval and the t test have n - 1 in the variance; the error as stated has n, McNemar's own.
    unbiased = stderr if index is not None or row.size < 2 else plain * float(np.sqrt(row.size / (row.size - 1)))
    freedom = row.size - 1 if index is None else cluster_freedom(index)
    delta = float(row.mean())
    if counted:
        p_value = sign_flip_test(row, index)
        effect = (stderr / plain) ** 2 if plain > 0 else 1.0
        quantile = float(
            scipy.special.ndtri(0.5 + confidence / 2) if groups is None else _t_quantile(freedom, confidence)
        )
        low, high = _counted_interval(row, max(1.0, effect), quantile)
        return Paired(delta, stderr, low, high, p_value, row.size, groups)
    if row.size < 2:  # one unit says nothing of how units differ
        p_value, reach = 1.0, np.inf
    elif unbiased > 1e-12 * np.abs(row).max():
        p_value = float(2.0 * scipy.special.stdtr(freedom, -abs(delta) / unbiased))
        reach = _t_quantile(freedom, confidence) * unbiased
    else:  # every unit moved by the same amount: t would be 0/0 or infinite, while so many equal signs are a sign test
        p_value, reach = 1.0 if delta == 0.0 else 2.0 ** (1 - (groups or row.size)), 0.0
    return Paired(delta, stderr, delta - reach, delta + reach, p_value, row.size, groups)


def _t_quantile(freedom: float, confidence: float) -> float:
    return float(scipy.special.stdtrit(freedom, 0.5 + confidence / 2))


def _counted_interval(row: NDArray[np.float64], effect: float, quantile: float) -> tuple[float, float]:
    """Bonett and Price's interval of a mean of whole-numbered differences, counts divided by the design effect."""
    n = row.size / effect + 2.0
    mean = row.sum() / effect / n
    variance = (np.sum(row**2) / effect + 2.0) / n - mean**2
    reach = quantile * np.sqrt(variance / n)
    return float(mean - reach), float(mean + reach)


def compare_items(
    reference: ArrayLike,
    variant: ArrayLike,
    clusters: Sequence[str] | ArrayLike | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> PairedComparison:
    """All paired figures of two rows of per-item scores, shape (n,) each, same items in the same order.

    `clusters` (n,) names each item's subject; see `compare_differences`.
    """
    first, second = _paired(reference, variant)
    found = compare_differences(second - first, clusters, counted=_binary(first, second), confidence=confidence)
    return PairedComparison(
        delta=found.delta,
        delta_stderr=found.stderr,
        p_value=found.p_value,
        flips=flips(first, second),
        n=found.n,
        low=found.low,
        high=found.high,
        clusters=found.clusters,
    )
