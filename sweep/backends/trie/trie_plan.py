"""The plan for all requests of a call within a budget, and the number of tokens that it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sweep.backends.base import ScoreRequest
from sweep.backends.trie.budget import PlanBudget
from sweep.backends.trie.packs import Pack, packs
from sweep.backends.trie.steps import EngineStep, steps
from sweep.backends.trie.token_trie import Ints, Trie


@dataclass(frozen=True)
class TriePlan:
    """A plan for scoring requests.

    Attributes:
        naive: number of tokens that would be computed with each request alone.
        distinct: number of tokens in the trie.
        computed: number of tokens that the plan computes. It is larger than `distinct` if prefixes are computed again
            because there are too few sequences to keep their states.
        needed: number of log-probabilities that each request needs, int32 (number of requests,).
        budget: the limits of the plan.
    """

    naive: int
    distinct: int
    computed: int
    needed: Ints
    budget: PlanBudget
    _trie: Trie
    _packs: tuple[Pack, ...]

    @property
    def recomputed(self) -> int:
        return self.computed - self.distinct

    def steps(self) -> Iterator[EngineStep]:
        return steps(self._trie, self._packs, self.budget)


def plan(requests: Sequence[ScoreRequest], budget: PlanBudget) -> TriePlan:
    """The plan for `requests` within `budget`.

    Raises ValueError if a single request does not fit into the cells, or if a part of the budget is below 1.
    """
    trie = Trie(requests)
    if max(trie.lengths, default=0) > budget.cells:
        raise ValueError(f"a request of {max(trie.lengths)} tokens does not fit into {budget.cells} cells")
    if min(budget.cells, budget.sequences, budget.batch, budget.rows) < 1:
        raise ValueError(f"{budget}: every part of a budget is at least 1")
    distinct = trie.size()
    if budget.copies_states:
        trie.snap(budget.min_shared)
    trie.attach()
    made = tuple(packs(trie, budget))
    computed = sum(length - start for pack in made for length, start in zip(pack.lengths, pack.starts, strict=True))
    naive = sum(len(r.context) + len(r.continuation) - 1 for r in requests)
    needed = np.array([len(r.continuation) for r in requests], np.int32)
    return TriePlan(naive, distinct, computed, needed, budget, trie, made)
