"""Leaves that are in the cache together, and the recurrent states kept from one such pack to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweep.backends.trie.budget import Budget
from sweep.backends.trie.token_trie import Trie


@dataclass(frozen=True)
class Pack:
    """Leaves first, first + 1, ... that are in the cache together; leaf i is computed from `starts`[i - first] on.

    Where states are copied: `parents` says of which leaf (or, negative, which kept state -1 - i) each is a branch;
    `keeps` are the states to keep for later packs, as (leaf, length, sequence); `drops` are the sequences of kept
    states that are of no more use, `sources` the sequence and length of each kept state at hand.
    """

    first: int
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    parents: tuple[int | None, ...] = ()
    sources: tuple[tuple[int, int], ...] = ()
    keeps: tuple[tuple[int, int, int], ...] = ()
    drops: tuple[int, ...] = ()


def packs(trie: Trie, budget: Budget) -> Iterator[Pack]:
    """All leaves, as many at a time as the budget holds."""
    states = _States(trie, budget) if budget.copies_states else None
    at_once = budget.sequences - (states.room if states else 0)
    first = 0
    while first < len(trie.paths):
        end, cells, low = first + 1, trie.lengths[first], trie.shared[first]
        # a pack of one batch where that is all it takes: what is in the cache costs every token's attention time
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
    """The states kept from pack to pack: those at which leaves to come part from the path of the last leaf.

    There is `room` for some of them. The others are computed again from the longest kept one before them.
    """

    def __init__(self, trie: Trie, budget: Budget) -> None:
        self._trie = trie
        self._next = _next_smaller(trie.shared)
        self.room = min(budget.sequences // 2, _deepest(trie.shared))
        self._sequences = list(range(budget.sequences - self.room, budget.sequences))  # beside those of the leaves
        self._kept: dict[int, int] = {}  # length: sequence

    def keeps(self, length: int) -> bool:
        """Whether there is a state to go on from at that length."""
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
        reach = min(shared[first:end])  # of the paths before and after this pack, so much is one
        self._kept = {length: sequence for length, sequence in before.items() if length <= reach}
        wanted = self._wanted(end, path[0][0])
        self._kept = {length: sequence for length, sequence in self._kept.items() if length in wanted}
        drops = tuple(sequence for sequence in before.values() if sequence not in self._kept.values())
        free = [sequence for sequence in self._sequences if sequence not in self._kept.values()]
        keeps = []
        for length in (length for length in wanted if length not in self._kept):
            leaf = next(leaf for start, leaf in reversed(path) if start < length)
            self._kept[length] = free.pop()
            keeps.append((leaf, length, self._kept[length]))
        return Pack(first, tuple(lengths[first:end]), tuple(starts), tuple(parents), sources, tuple(keeps), drops)

    def _wanted(self, end: int, computed_from: int) -> list[int]:
        """Lengths to keep after the leaf before `end`: where later leaves part from it, as far as there is room."""
        lengths = []
        while end < len(self._trie.shared) and self._trie.shared[end]:
            lengths.append(self._trie.shared[end])
            end = self._next[end]
        # those that are kept already or that this pack computes
        lengths = sorted(length for length in lengths if length in self._kept or length > computed_from)
        while len(lengths) > self.room:  # the state that is the cheapest to compute again goes
            gaps = [length - before for before, length in zip([0, *lengths], lengths, strict=False)]
            lengths.pop(gaps.index(min(gaps)))
        return lengths


def _next_smaller(values: Sequence[int]) -> list[int]:
    """For each place the next one with a smaller value, or the number of values."""
    result = [len(values)] * len(values)
    stack: list[int] = []
    for place, value in enumerate(values):
        while stack and values[stack[-1]] > value:
            result[stack.pop()] = place
        stack.append(place)
    return result


def _deepest(shared: Sequence[int]) -> int:
    """The greatest number of partings that lie on one path with leaves to come."""
    stack: list[int] = []
    most = 0
    for value in reversed(shared):  # seen from the end, the partings to come are a rising stack
        while stack and stack[-1] >= value:
            stack.pop()
        if value:
            stack.append(value)
        most = max(most, len(stack))
    return most
