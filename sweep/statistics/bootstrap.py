"""Intervals by resampling whole groups: the percentile bootstrap of Efron and Tibshirani (1993), its percentiles
expanded as Hesterberg (2015) does, since of few groups the plain ones are too narrow by sqrt((n - 1) / n) and take the
normal quantile where Student's belongs.

A group is what may be taken as independent: a document's scores, a chunk's tokens (neighbouring tokens correlate), or
all items of a subject (the cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy  # scipy.special takes 0.15 s: it is loaded at its first use, which not every process comes to
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

    `groups` holds one scalar or one row each; `statistic` sees the rows of a resample joined. The same seed gives the
    same interval.
    """
    rows = [np.atleast_1d(np.asarray(group, np.float64)) for group in groups]
    if len(rows) < 2:
        raise ValueError(f"a bootstrap needs at least two groups, got {len(rows)}")
    picks = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
    if len({row.size for row in rows}) == 1:  # chunks of one length, single scores: one gather a resample
        joined = np.stack(rows)
        values = [statistic(joined[pick].ravel()) for pick in picks]
    else:
        values = [statistic(np.concatenate([rows[i] for i in pick])) for pick in picks]
    return percentile_interval(np.asarray(values), len(rows), confidence=confidence)


def percentile_interval(values: NDArray[np.float64], groups: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The middle of the resampled values (R,): `confidence`, and as much more as resampling `groups` groups wants.

    A value that is nan, a resample without the statistic, may be anything: it counts as below the low end and as above
    the high one, so that an end with more of them beyond it than its tail holds is infinite.
    """
    quantile = scipy.special.stdtrit(groups - 1, (1.0 - confidence) / 2.0)
    tail = float(scipy.special.ndtr(np.sqrt(groups / (groups - 1)) * quantile))
    unknown = np.isnan(values)
    if not unknown.any():
        low, high = np.quantile(values, [tail, 1.0 - tail])
    else:  # no value between two of them is taken: one of the two may be infinite
        low = np.quantile(np.where(unknown, -np.inf, values), tail, method="lower")
        high = np.quantile(np.where(unknown, np.inf, values), 1.0 - tail, method="higher")
    return float(low), float(high)


def bootstrap_means(
    rows: ArrayLike, clusters: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Means of paired rows (k, n) under the same resamples of their n units, shape (k, resamples).

    A difference of two of its rows is a paired bootstrap of the difference, and any figure made of the means keeps
    their correlation. With `clusters` (n,) whole clusters are drawn. The same seed gives the same resamples.
    """
    values = np.atleast_2d(np.asarray(rows, np.float64))
    if clusters is None:
        # Units that are alike in every row are drawn as one: thousands of right and wrong answers have few patterns.
        sums, sizes = np.unique(values, axis=1, return_counts=True)
        sums, frequency = sums * sizes, sizes
    else:
        index = np.unique(np.asarray(clusters), return_inverse=True)[1]
        if index.shape != values.shape[1:]:
            raise ValueError(f"every value needs its cluster, got {values.shape} and {index.shape}")
        sizes = np.bincount(index)
        sums, frequency = np.stack([np.bincount(index, row) for row in values]), np.ones_like(sizes)
    drawings = int(frequency.sum())
    if drawings < 2:
        raise ValueError(f"a bootstrap needs at least two groups, got {drawings}")
    # how often each is drawn, as a multiple of how often it is there
    drawn = np.random.default_rng(seed).multinomial(drawings, frequency / drawings, size=resamples) / frequency
    means: NDArray[np.float64] = (sums @ drawn.T) / (drawn @ sizes)
    return means
