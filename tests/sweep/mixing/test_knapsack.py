"""The exact choice of types under a limit, compared with trying all choices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.mixing.knapsack import best_choice


def by_trying(costs: NDArray[np.float64], sizes: NDArray[np.int64], limit: int, allowed: NDArray[np.bool_]) -> float:
    """The least cost of all choices that are not larger than the limit."""
    found = []
    for choice in product(*(np.flatnonzero(row) for row in allowed)):
        at = range(len(choice)), list(choice)
        if sizes[at].sum() <= limit:
            found.append(float(costs[at].sum()))
    return min(found)


@pytest.mark.parametrize("seed", range(40))
def test_it_is_as_good_as_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, options = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    costs = rng.lognormal(0.0, 2.0, (groups, options))
    sizes = rng.integers(1, 1000, (groups, options)) * int(rng.choice([1, 32, 7_340_032]))
    allowed = rng.random((groups, options)) < 0.7
    allowed[np.arange(groups), rng.integers(0, options, groups)] = True
    least = int(np.where(allowed, sizes, sizes.max() + 1).min(1).sum())
    limit = least + int(rng.random() * (sizes.max(1).sum() - least + 1))
    chosen = best_choice(costs, sizes, limit, allowed)
    at = np.arange(groups), np.array(chosen)
    assert sizes[at].sum() <= limit
    assert allowed[at].all()
    assert costs[at].sum() == pytest.approx(by_trying(costs, sizes, limit, allowed), rel=1e-6)


def test_the_limit_is_kept_to_the_byte() -> None:
    sizes = np.array([[100_000_000_032, 100_000_000_064]] * 3)
    costs = np.array([[2.0, 1.0]] * 3)
    for spare in range(4):
        chosen = best_choice(costs, sizes, int(sizes[:, 0].sum()) + 32 * spare)
        assert sum(chosen) == spare
    with pytest.raises(InputError, match=r"300,000,000,095 bytes for tensors are too few: .* take 300,000,000,096"):
        best_choice(costs, sizes, int(sizes[:, 0].sum()) - 1)


def test_costs_of_zero_and_one_option_are_no_special_case() -> None:
    assert best_choice(np.zeros((2, 1)), np.array([[5], [7]]), 12) == [0, 0]
    assert best_choice(np.zeros((2, 2)), np.array([[5, 6], [7, 9]]), 12) == [0, 0]
