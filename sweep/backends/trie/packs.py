"""Packs: the leaves that are in the cache at the same time, and the recurrent states kept from one pack to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweep.backends.trie.budget import PlanBudget
from sweep.backends.trie.token_trie import Trie


@dataclass(frozen=True)
class Pack:
    """The leaves first, first + 1, ... that are in the cache at the same time.

    Attributes:
        first: number of the first leaf.
        lengths: number of tokens of each leaf's path.
        starts: the token from which on each leaf is computed.

    With recurrent states also:
        parents: the leaf of which each leaf is a branch, or -1 - i for a branch of kept state i, or None.
        sources: sequence and length of each kept state that is available.
        keeps: the states to keep for later packs, as (leaf, length, sequence).
        drops: the sequences of kept states that are no longer needed.
    """

    first: int
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    parents: tuple[int | None, ...] = ()
    sources: tuple[tuple[int, int], ...] = ()
    keeps: tuple[tuple[int, int, int], ...] = ()
    drops: tuple[int, ...] = ()


def packs(trie: Trie, budget: PlanBudget) -> Iterator[Pack]:
    """All leaves in packs, each as large as the budget allows."""
    states = _States(trie, budget) if budget.copies_states else None
    at_once = budget.sequences - (states.room if states else 0)
    first = 0
    while first < len(trie.paths):
        end, cells, low = first + 1, trie.lengths[first], trie.shared[first]
        # at most one batch of new tokens per pack, because every token's attention reads all cells in the cache
        most = budget.cells if states else min(budget.cells, trie.shared[first] + budget.batch)
        while end < len(trie.paths) and end - first < at_once:
            low = min(low, trie.shared[end])
            again = states is not None and trie.shared[end] == low and not states.keeps(low)
            cells += trie.lengths[end] - (0 if again else trie.shared[end])  # `again` counts some cells twice
            if cells > most:
                break
            end += 1
        if states:
            pack = states.pack(first, end)
        else:
            pack = Pack(first, tuple(trie.lengths[first:end]), tuple(trie.shared[first:end]))
        yield pack
        first = end


class _States:
    """The states kept from pack to pack: those from which later leaves branch off the path of the last leaf.

    There is `room` for some of them. The others are computed again from the longest kept state that is a prefix.
    """

    def __init__(self, trie: Trie, budget: PlanBudget) -> None:
        self._trie = trie
        self._next = _next_smaller(trie.shared)
        self.room = min(budget.sequences // 2, _deepest(trie.shared))
        self._sequences = list(range(budget.sequences - self.room, budget.sequences))  # not used by leaves
        self._kept: dict[int, int] = {}  # length: sequence

    def keeps(self, length: int) -> bool:
        """Whether a state of that length is kept."""
        return length in self._kept

    def pack(self, first: int, end: int) -> Pack:
        shared, lengths = self._trie.shared, self._trie.lengths
        sources = tuple((sequence, length) for length, sequence in self._kept.items())
        starts: list[int] = []
        parents: list[int | None] = []
        path: list[tuple[int, int]] = []  # parts of the last leaf's path that this pack computes: start, leaf
        for leaf in range(first, end):
            while path and path[-1][0] >= shared[leaf]:
                path.pop()
            start, parent = shared[leaf], path[-1][1] if path else None
            if parent is None:
                start = max((length for length in self._kept if length <= shared[leaf]), default=0)
                if start:
                    parent = -1 - list(self._kept).index(start)
            path.append((start, leaf))
            starts.append(start)
            parents.append(parent)
        before = self._kept
        reach = min(shared[first:end])  # number of tokens that the paths before and after this pack have in common
        self._kept = {length: sequence for length, sequence in before.items() if length <= reach}
        needed = self._lengths_to_keep(end, path[0][0])
        self._kept = {length: sequence for length, sequence in self._kept.items() if length in needed}
        drops = tuple(sequence for sequence in before.values() if sequence not in self._kept.values())
        free = [sequence for sequence in self._sequences if sequence not in self._kept.values()]
        keeps = []
        for length in (length for length in needed if length not in self._kept):
            leaf = next(leaf for start, leaf in reversed(path) if start < length)
            self._kept[length] = free.pop()
            keeps.append((leaf, length, self._kept[length]))
        return Pack(first, tuple(lengths[first:end]), tuple(starts), tuple(parents), sources, tuple(keeps), drops)

    def _lengths_to_keep(self, end: int, computed_from: int) -> list[int]:
        """Lengths of the states to keep after the leaf before `end`: where later leaves branch off, up to `room`."""
        lengths = []
        while end < len(self._trie.shared) and self._trie.shared[end]:
            lengths.append(self._trie.shared[end])
            end = self._next[end]
        # only lengths that are already kept or that this pack computes
        lengths = sorted(length for length in lengths if length in self._kept or length > computed_from)
        while len(lengths) > self.room:  # drop the state that is the cheapest to compute again
            gaps = [length - before for before, length in zip([0, *lengths], lengths, strict=False)]
            lengths.pop(gaps.index(min(gaps)))
        return lengths


def _next_smaller(values: Sequence[int]) -> list[int]:
    """For each index the next index with a smaller value, or the number of values if there is none."""
    result = [len(values)] * len(values)
    stack: list[int] = []
    for place, value in enumerate(values):
        while stack and values[stack[-1]] > value:
            result[stack.pop()] = place
        stack.append(place)
    return result


def _deepest(shared: Sequence[int]) -> int:
    """The largest number of branching positions with later leaves on any path."""
    stack: list[int] = []
    most = 0
    for value in reversed(shared):  # seen from the end, the later branching positions form an ascending stack
        while stack and stack[-1] >= value:
            stack.pop()
        if value:
            stack.append(value)
        most = max(most, len(stack))
    return most
