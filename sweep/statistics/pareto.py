"""The Pareto set of points with a cost and a loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_set(cost: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point beats: none is as good or better on both axes and better on one. Less is better.

    Shapes (n,) and (n,) -> (n,). Equal points stand or fall together.
    """
    c, v = np.asarray(cost, np.float64), np.asarray(loss, np.float64)
    if c.ndim != 1 or c.shape != v.shape:
        raise ValueError(f"a Pareto set needs two equal rows, got {c.shape} and {v.shape}")
    no_worse = (c[:, None] <= c) & (v[:, None] <= v)  # [i, j]: i is no worse than j
    better = (c[:, None] < c) | (v[:, None] < v)
    return ~np.any(no_worse & better, axis=0)
