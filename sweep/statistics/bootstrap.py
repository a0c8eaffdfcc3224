"""Intervals by resampling whole groups.

Method: the percentile bootstrap of Efron and Tibshirani (1993) with the expanded percentiles of Hesterberg (2015). With
few groups the plain percentiles are too narrow: by a factor sqrt((n - 1) / n), and because they correspond to the
normal quantile instead of Student's t.

A group is a set of values that is independent of the other groups: the scores of a document, the tokens of a chunk
(neighbouring tokens correlate), or all items of a subject (the cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy  # scipy loads scipy.special (0.15 s) at its first use, which many processes never reach
from numpy.typing import ArrayLike, NDArray


def bootstrap_interval(
    groups: Sequence[ArrayLike] | NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Expanded percentile bootstrap interval of `statistic`, resampling whole groups with replacement.

    Args:
        groups: n groups; each is a scalar or a row (m_i,). They are converted to float64.
        statistic: takes the joined rows of one resample, float64 (m,), and returns a number. The default is the mean.
        confidence: coverage of the interval.
        resamples: number of resamples.
        seed: the same seed gives the same interval.

    Returns the low and the high end. Raises ValueError for fewer than two groups.
    """
    rows = [np.atleast_1d(np.asarray(group, np.float64)) for group in groups]
    if len(rows) < 2:
        raise ValueError(f"a bootstrap needs at least two groups, got {len(rows)}")
    picks = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
    if len({row.size for row in rows}) == 1:  # chunks of equal length, or single scores: one gather per resample
        joined = np.stack(rows)
        values = [statistic(joined[pick].ravel()) for pick in picks]
    else:
        values = [statistic(np.concatenate([rows[i] for i in pick])) for pick in picks]
    return percentile_interval(np.asarray(values), len(rows), confidence=confidence)


def percentile_interval(values: NDArray[np.float64], groups: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Expanded percentile interval of `values` (R,), the statistic of R resamples of `groups` groups.

    A nan is a resample in which the statistic does not exist; its value could be anything. It is therefore treated as
    below the low end and also as above the high end. An end is infinite if its tail would have to contain a nan.
    """
    quantile = scipy.special.stdtrit(groups - 1, (1.0 - confidence) / 2.0)
    tail = float(scipy.special.ndtr(np.sqrt(groups / (groups - 1)) * quantile))
    unknown = np.isnan(values)
    if not unknown.any():
        low, high = np.quantile(values, [tail, 1.0 - tail])
    else:  # do not interpolate between two values: one of them may be infinite
        low = np.quantile(np.where(unknown, -np.inf, values), tail, method="lower")
        high = np.quantile(np.where(unknown, np.inf, values), 1.0 - tail, method="higher")
    return float(low), float(high)


def bootstrap_means(
    rows: ArrayLike, clusters: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Means of k paired rows, shape (k, n), under the same resamples of their n units; float64 (k, resamples).

    The difference of two rows of the result is a paired bootstrap of the difference, and every figure computed from
    the means keeps their correlation. With `clusters` (n,), whole clusters are drawn. The same seed gives the same
    resamples. Raises ValueError for fewer than two units or clusters, or if `clusters` has another length than a row.
    """
    values = np.atleast_2d(np.asarray(rows, np.float64))
    if clusters is None:
        # Units with equal values in every row are drawn together: thousands of right and wrong answers have few
        # patterns.
        sums, sizes = np.unique(values, axis=1, return_counts=True)
        sums, frequency = sums * sizes, sizes
    else:
        index = np.unique(np.asarray(clusters), return_inverse=True)[1]
        if index.shape != values.shape[1:]:
            raise ValueError(f"values and clusters must have the same length, got {values.shape} and {index.shape}")
        sizes = np.bincount(index)
        sums, frequency = np.stack([np.bincount(index, row) for row in values]), np.ones_like(sizes)
    n_draws = int(frequency.sum())
    if n_draws < 2:
        raise ValueError(f"a bootstrap needs at least two groups, got {n_draws}")
    # how often each pattern or cluster is drawn, relative to how often it occurs
    drawn = np.random.default_rng(seed).multinomial(n_draws, frequency / n_draws, size=resamples) / frequency
    means: NDArray[np.float64] = (sums @ drawn.T) / (drawn @ sizes)
    return means
