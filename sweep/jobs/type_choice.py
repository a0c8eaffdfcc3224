"""The job that chooses the types of a mix. The solver can print to stdout, which in a worker is its log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweep.jobs.base import Job, Result, Site


@dataclass(frozen=True)
class TypeChoiceResult(Result):
    """The chosen option of each group."""

    chosen: tuple[int, ...]


@dataclass(frozen=True)
class TypeChoiceJob(Job[TypeChoiceResult]):
    """Choose one option of each group with the least sum of `costs` and at most `limit` bytes.

    `costs`, `sizes` (bytes) and `allowed` have a row for each group. See mixing.knapsack.
    """

    kind = "type_choice"
    result_type = TypeChoiceResult

    costs: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    allowed: tuple[tuple[bool, ...], ...]
    limit: int

    def run(self, site: Site) -> TypeChoiceResult:
        from sweep.mixing.knapsack import best_choice

        rows = np.array(self.costs, np.float64), np.array(self.sizes, np.int64)
        return TypeChoiceResult(tuple(best_choice(*rows, self.limit, np.array(self.allowed, np.bool_))))
