"""Differences between the scores of two variants over the same items: mean, error, interval, exact test, flips.

Sources:

- McNemar (1947): the test of paired 0/1 scores, in its exact binomial form; Edgington and Onghena (2007): Fisher's
  randomization test by sign flips, of which McNemar's test is a special case.
- Bonett and Price (2012): the interval of a paired difference of proportions, recommended by Fagerland, Lydersen and
  Laake (2014).
- Dutta et al. (arXiv 2407.09141): flips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy loads scipy.special (0.15 s) at its first use, which many processes never reach
from numpy.typing import ArrayLike, NDArray

from sweep.statistics.clusters import MIN_CLUSTERS, cluster_freedom, cluster_stderr, cluster_sums, usable_clusters

CONFIDENCE = 0.95
HALF_INTERVAL = 1.96  # half width of a normal interval at CONFIDENCE, in standard errors


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over `n` units with its standard error, its interval (`low`, `high`) and its p value.

    `p_value` is two-sided, for the null hypothesis of no difference. `clusters` is the number of subjects or images
    that were treated as the independent units; None if the n units themselves were.
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

    `p_value` is two-sided. If every item scores 0 or 1 it is that of the exact McNemar test (for clustered items, all
    items of a subject flip their sign together), otherwise that of the paired t test. `flips` is the share of items
    whose score changed. `low` and `high` bound the interval of `delta`; `clusters` is as in PairedDifference.
    """

    delta: float
    delta_stderr: float
    p_value: float
    flips: float
    n: int
    low: float
    high: float
    clusters: int | None = None


def _validated_pair(reference: ArrayLike, variant: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(reference, np.float64), np.asarray(variant, np.float64)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(
            f"paired scores need two non-empty rows of items of the same length, got {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("an item's score is not a finite number")
    return first, second


def _are_binary(*rows: NDArray[np.float64]) -> bool:
    return all(bool(np.isin(row, (0.0, 1.0)).all()) for row in rows)


def paired_delta(reference: ArrayLike, variant: ArrayLike) -> tuple[float, float]:
    """Mean of d = variant - reference over n items, and its standard error sqrt(mean((d - mean d)^2) / n).

    Both inputs have shape (n,). For 0/1 scores with b items lost and c items won the mean is (c - b)/n and the standard
    error is sqrt(b + c - (b - c)^2 / n) / n, McNemar's variance. Raises ValueError for unequal lengths, no items or
    scores that are not finite.
    """
    first, second = _validated_pair(reference, variant)
    difference = second - first
    return float(difference.mean()), float(difference.std() / np.sqrt(difference.size))


def mcnemar(reference: ArrayLike, variant: ArrayLike) -> float:
    """Exact two-sided p value of McNemar's test for two rows of 0/1 scores, shape (n,) each.

    The null hypothesis: an item that changed is as likely to be won as lost. Raises ValueError for other scores.
    """
    first, second = _validated_pair(reference, variant)
    if not _are_binary(first, second):
        raise ValueError("McNemar's test needs scores of 0 and 1")
    lost, won = int(np.sum(first > second)), int(np.sum(second > first))
    return _sign_test(won, lost + won) if lost + won else 1.0


def _sign_test(ups: int, n: int) -> float:
    """Exact two-sided p value of `ups` positive signs out of n, if both signs are equally likely."""
    return float(min(1.0, 2.0 * scipy.special.bdtr(min(ups, n - ups), n, 0.5)))


def _fair_coin(n: int) -> NDArray[np.float64]:
    """Probabilities of 0 .. n heads in n tosses, float64 (n + 1,)."""
    heads = np.arange(n + 1)
    log_ways = scipy.special.gammaln(n + 1) - scipy.special.gammaln(heads + 1) - scipy.special.gammaln(n - heads + 1)
    return np.exp(log_ways - n * np.log(2.0))


def sign_flip_test(differences: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Exact two-sided p value of integer `differences` (n,): is a positive sign as likely as a negative one?

    It is the probability that the sum of the differences, with every sign drawn at random, is at least as far from 0 as
    the observed sum. For differences of -1, 0 and 1 this is McNemar's test. With `clusters` (n,), the sum of each
    cluster flips its sign as a whole, so that an effect common to a subject counts once. Units without a difference do
    not matter. Raises ValueError for differences that are not whole numbers.
    """
    row = np.asarray(differences, np.float64)
    if row.ndim != 1 or not np.array_equal(row, np.rint(row)):
        raise ValueError("the exact test needs a one-dimensional array of whole numbers")
    units = row if clusters is None else cluster_sums(row, np.unique(np.asarray(clusters), return_inverse=True)[1])
    sizes, counts = np.unique(np.abs(units[units != 0]).astype(int), return_counts=True)
    if sizes.tolist() == [1]:
        return _sign_test(int(np.sum(units > 0)), int(counts[0]))
    # distribution of sum(size * number of positive signs): a binomial for each size, spread by that size, convolved
    probabilities = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        ups = np.zeros(size * count + 1)
        ups[::size] = _fair_coin(count)
        probabilities = np.convolve(probabilities, ups)
    total = int(np.sum(sizes * counts))
    sums = 2 * np.arange(total + 1) - total
    return float(min(1.0, probabilities[np.abs(sums) >= abs(int(units.sum()))].sum()))


def flips(reference: ArrayLike, variant: ArrayLike) -> float:
    """Share of the n items whose score changed in either direction: (b + c) / n for 0/1 scores with b lost and c won.

    Both inputs have shape (n,). Raises ValueError as `paired_delta` does.
    """
    first, second = _validated_pair(reference, variant)
    return float(np.mean(first != second))


def compare_differences(
    differences: ArrayLike,
    clusters: Sequence[str] | ArrayLike | None = None,
    *,
    binary: bool = False,
    confidence: float = CONFIDENCE,
    fewest: int = MIN_CLUSTERS,
) -> PairedDifference:
    """Mean, standard error, interval and significance test of `differences` (n,) between variants over the same units.

    `binary` says that the differences come from 0/1 scores and are therefore whole numbers. The test is then exact
    (`sign_flip_test`), and the interval is that of Bonett and Price. It adds one item won and one item lost, so that
    few or no changed items do not give an interval of nearly zero width. Without `binary`, test and interval are
    Student's t with n - 1 degrees of freedom.

    With at least `fewest` `clusters` (n,), the standard error is cluster-robust, t has the degrees of freedom of
    `cluster_freedom`, and the counts of a binary interval are divided by the design effect. With fewer clusters the
    units count as independent. Raises ValueError for no units, differences that are not finite, or unequal lengths.
    """
    row, _ = _validated_pair(differences, differences)
    index = usable_clusters(clusters, fewest)
    plain = float(row.std() / np.sqrt(row.size))
    if index is not None and index.shape != row.shape:
        raise ValueError(f"differences and clusters must have the same length, got {row.shape} and {index.shape}")
    groups = None if index is None else int(index.max()) + 1
    stderr = plain if index is None else cluster_stderr(row, index)
    # The interval and the t test have n - 1 in the variance; the reported error has n, as McNemar's variance does.
    unbiased = stderr if index is not None or row.size < 2 else plain * float(np.sqrt(row.size / (row.size - 1)))
    freedom = row.size - 1 if index is None else cluster_freedom(index)
    delta = float(row.mean())
    if binary:
        p_value = sign_flip_test(row, index)
        effect = (stderr / plain) ** 2 if plain > 0 else 1.0
        quantile = float(
            scipy.special.ndtri(0.5 + confidence / 2) if groups is None else _t_quantile(freedom, confidence)
        )
        low, high = _binary_interval(row, max(1.0, effect), quantile)
        return PairedDifference(delta, stderr, low, high, p_value, row.size, groups)
    if row.size < 2:  # a single unit has no variance
        p_value, half_width = 1.0, np.inf
    elif unbiased > 1e-12 * np.abs(row).max():
        p_value = float(2.0 * scipy.special.stdtr(freedom, -abs(delta) / unbiased))
        half_width = _t_quantile(freedom, confidence) * unbiased
    else:  # every unit changed by the same amount: t would be 0/0 or infinite, so the signs alone are tested
        p_value, half_width = 1.0 if delta == 0.0 else 2.0 ** (1 - (groups or row.size)), 0.0
    return PairedDifference(delta, stderr, delta - half_width, delta + half_width, p_value, row.size, groups)


def _t_quantile(freedom: float, confidence: float) -> float:
    return float(scipy.special.stdtrit(freedom, 0.5 + confidence / 2))


def _binary_interval(row: NDArray[np.float64], effect: float, quantile: float) -> tuple[float, float]:
    """Bonett and Price's interval of a mean of integer differences; counts are divided by the design `effect`."""
    n = row.size / effect + 2.0
    mean = row.sum() / effect / n
    variance = (np.sum(row**2) / effect + 2.0) / n - mean**2
    half_width = quantile * np.sqrt(variance / n)
    return float(mean - half_width), float(mean + half_width)


def compare_items(
    reference: ArrayLike,
    variant: ArrayLike,
    clusters: Sequence[str] | ArrayLike | None = None,
    *,
    confidence: float = CONFIDENCE,
    fewest: int = MIN_CLUSTERS,
) -> PairedComparison:
    """All paired figures of two rows of per-item scores, shape (n,) each, for the same items in the same order.

    `clusters` (n,) are the subjects or images of the items; see `compare_differences` for the method and the errors.
    """
    first, second = _validated_pair(reference, variant)
    binary = _are_binary(first, second)
    found = compare_differences(second - first, clusters, binary=binary, confidence=confidence, fewest=fewest)
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
