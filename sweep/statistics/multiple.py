"""Many tests at once: Holm (1979), which needs no independence and rejects all that Bonferroni does and more."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05  # a family's chance of any false finding


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p values, in the order given; `adjusted < alpha` holds the family-wise error at alpha.

    With p sorted ascending, adjusted_i = max over j <= i of min(1, (m - j) p_j), j from 0.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p values must be a row of numbers between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted
