"""The trie of all requests of a call under one budget, and what computing it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sweep.backends.base import ScoreRequest
from sweep.backends.trie.budget import Budget
from sweep.backends.trie.packs import Pack, packs
from sweep.backends.trie.steps import Step, steps
from sweep.backends.trie.token_trie import Ints, Trie


@dataclass(frozen=True)
class TriePlan:
    """`naive` tokens would be computed with each request alone, `distinct` is the trie's size, `computed` what the plan
    computes: more than `distinct` where prefixes are computed again for want of sequences to keep them in.
    """

    naive: int
    distinct: int
    computed: int
    wanted: Ints  # how many log-probabilities each request needs
    budget: Budget
    _trie: Trie
    _packs: tuple[Pack, ...]

    @property
    def recomputed(self) -> int:
        return self.computed - self.distinct

    def steps(self) -> Iterator[Step]:
        return steps(self._trie, self._packs, self.budget)


def plan(requests: Sequence[ScoreRequest], budget: Budget) -> TriePlan:
    """The trie of all `requests` under `budget`. A request alone must fit into its cells: ValueError if not."""
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
    wanted = np.array([len(r.continuation) for r in requests], np.int32)
    return TriePlan(naive, distinct, computed, wanted, budget, trie, made)
