"""Correction of p values for several tests: Holm (1979).

Holm's method does not need independent tests and is at least as powerful as Bonferroni's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05  # family-wise error rate: the probability of any false positive among all tests


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p values, float64 (m,), in the order of `p_values` (m,).

    Rejecting where `adjusted < alpha` keeps the family-wise error rate at alpha. With p sorted in ascending order,
    adjusted_i = max over j <= i of min(1, (m - j) p_j), with j from 0. Raises ValueError unless every p value is
    between 0 and 1.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p values must be a one-dimensional array of numbers between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted
