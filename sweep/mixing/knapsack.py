"""The exact choice of one option for each group with the least cost, under a limit for the sum of sizes: a
multiple-choice knapsack, solved as a mixed-integer linear program (HiGHS, by scipy)."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from converters.errors import InputError


def best_choice(
    costs: NDArray[np.float64], sizes: NDArray[np.int64], limit: int, allowed: NDArray[np.bool_] | None = None
) -> Sequence[int]:
    """The option of each group with the least sum of costs, whose sizes are together at most `limit`.

    costs: float64 [groups, options], 0 or more. sizes: int64 [groups, options], bytes. allowed: bool [groups, options],
    the options that a group can have. Raises InputError if even the smallest options are too large.
    """
    usable = np.ones(costs.shape, bool) if allowed is None else allowed
    least = int(np.where(usable, sizes, np.iinfo(np.int64).max).min(1).sum())
    if least > limit:
        raise InputError(f"{limit:,} bytes for tensors are too few: with the smallest types they take {least:,}")
    groups, options = costs.shape
    smallest = np.where(usable, sizes, np.iinfo(np.int64).max).min(1, keepdims=True)
    extra = np.where(usable, sizes - smallest, 0)  # what is chosen above the smallest: small numbers are exact
    step = gcd(*(int(size) for size in extra.ravel())) or 1
    units, most = extra // step, (limit - least) // step
    one_each = np.kron(np.eye(groups), np.ones(options))
    while most > 0:
        solved = milp(
            costs.ravel() / max(costs.max(), np.finfo(float).tiny),
            integrality=np.ones(costs.size),
            bounds=Bounds(0, usable.ravel().astype(float)),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(units.ravel()[None] / most, -np.inf, 1.0),
            ],
            options={"mip_rel_gap": 0.0},
        )
        if solved.x is None:
            raise InputError(f"no choice of types was found for {limit:,} bytes: {solved.message}")
        chosen = solved.x.reshape(costs.shape).argmax(1)
        over = int(sizes[np.arange(groups), chosen].sum()) - limit
        if over <= 0:
            return [int(option) for option in chosen]
        most -= max(1, over // step)  # the solver's tolerance: about a millionth of the limit
    return [int(option) for option in np.where(usable & (sizes == smallest), costs, np.inf).argmin(1)]
