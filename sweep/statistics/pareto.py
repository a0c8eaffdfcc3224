"""The Pareto set of points with a cost and a loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_set(cost: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """Which points are in the Pareto set: no other point is at least as good on both axes and better on one.

    Lower is better on both axes. `cost` and `loss` have shape (n,); the result is bool (n,). Equal points are either
    all in the set or all outside. Raises ValueError if the shapes differ or are not one-dimensional.
    """
    c, v = np.asarray(cost, np.float64), np.asarray(loss, np.float64)
    if c.ndim != 1 or c.shape != v.shape:
        raise ValueError(f"a Pareto set needs two arrays of the same length, got {c.shape} and {v.shape}")
    no_worse = (c[:, None] <= c) & (v[:, None] <= v)  # [i, j]: i is no worse than j
    better = (c[:, None] < c) | (v[:, None] < v)
    return ~np.any(no_worse & better, axis=0)
