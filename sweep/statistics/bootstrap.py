"""Intervals by resampling whole groups: the percentile bootstrap of Efron and Tibshirani (1993).

A group is what may be taken as independent: a document's scores, a chunk's tokens (neighbouring tokens correlate), or
all items of a subject (the cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bootstrap_interval(
    groups: Sequence[ArrayLike] | NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic`, resampling whole groups with replacement.

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
    return percentile_interval(np.asarray(values), confidence)


def percentile_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """The middle `confidence` of the resampled values."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def bootstrap_means(
    rows: ArrayLike, clusters: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Means of paired rows (k, n) under the same resamples of their n units, shape (k, resamples).

    A difference of two of its rows is a paired bootstrap of the difference, and any figure made of the means keeps
    their correlation. With `clusters` (n,) whole clusters are drawn. The same seed gives the same resamples.
    """
    values = np.atleast_2d(np.asarray(rows, np.float64))
    n = values.shape[1]
    index = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(index.max()) + 1 if n else 0
    if count < 2:
        raise ValueError(f"a bootstrap needs at least two groups, got {count}")
    if index.shape != (n,):
        raise ValueError(f"every value needs its cluster, got {values.shape} and {index.shape}")
    sizes = np.bincount(index)
    sums = np.stack([np.bincount(index, row) for row in values])
    # how often each group is drawn: multinomial, the counts of drawing `count` groups with replacement
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    means: NDArray[np.float64] = (sums @ drawn.T) / (drawn @ sizes)
    return means
