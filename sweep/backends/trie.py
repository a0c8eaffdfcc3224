"""A plan for scoring many requests that computes every common prefix once.

All requests of a call are the paths of one token trie: few-shot examples, question and the first words of the choices
are shared wherever they are the same. The plan walks the trie depth first, as many leaves at a time as fit into the
cells and sequences there are (a pack), so that memory does not grow with the number of requests. It knows no engine:
it says which tokens to compute, for which sequences, and what to do with the sequences before.

Engines share in one of two ways. With attention alone, a token in the cache may belong to any number of sequences, and
a sequence may be cut anywhere. With a recurrent state, a sequence can only be continued or copied whole: a prefix is
computed exactly up to where branches part, and its state copied to each of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from sweep.backends.base import ScoreRequest

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Budget:
    """What a plan may use: `cells` of the cache and `sequences` at a time, `batch` tokens and `rows` of logits a step.

    `copies_states`: sequences are copied whole (recurrent models). A prefix that is shorter by fewer than `min_shared`
    tokens is then branched from instead: each branch is a small step of its own, which may cost more than it saves.
    """

    cells: int
    sequences: int
    batch: int
    rows: int
    copies_states: bool = False
    min_shared: int = 1


@dataclass(frozen=True)
class Step:
    """One call of the engine. Sequences are numbered from 0; in this order

    - `drops`: sequences to forget whole;
    - `copies`: (source, target, length), the empty `target` becomes the first `length` tokens of `source`, which are
      all it has where states are copied;
    - `cuts`: (sequence, length), it keeps its first `length` tokens only (never where states are copied);
    - the n `tokens` at `positions` (n,) are computed: token i belongs to `counts`[i] sequences, the next so many of
      `sequences` (sum of counts,), each of which it continues;
    - logits are wanted after the tokens marked in `wanted` (n,), say m rows, in the order of the tokens.

    `pick_rows`, `pick_tokens`, `pick_requests` (k,) say what for: request `pick_requests`[i] needs the log-probability
    of `pick_tokens`[i] in row `pick_rows`[i] < m.
    """

    drops: tuple[int, ...]
    copies: tuple[tuple[int, int, int], ...]
    cuts: tuple[tuple[int, int], ...]
    tokens: Ints
    positions: Ints
    counts: Ints
    sequences: Ints
    wanted: NDArray[np.bool_]
    pick_rows: NDArray[np.int64]
    pick_tokens: NDArray[np.int64]
    pick_requests: NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """`naive` tokens would be computed with each request alone, `distinct` is the trie's size, `computed` what the plan
    computes: more than `distinct` where prefixes are computed again for want of sequences to keep them in.
    """

    naive: int
    distinct: int
    computed: int
    wanted: Ints  # how many log-probabilities each request needs
    budget: Budget
    _trie: _Trie
    _packs: tuple[_Pack, ...]

    @property
    def recomputed(self) -> int:
        return self.computed - self.distinct

    def steps(self) -> Iterator[Step]:
        batches = (
            _copied_batches(self._trie, self._packs) if self.budget.copies_states else _shared_batches(self._packs)
        )
        for batch in batches:
            yield from _split(self._trie, batch, self.budget)


def plan(requests: Sequence[ScoreRequest], budget: Budget) -> Plan:
    """The trie of all `requests` under `budget`. A request alone must fit into its cells: ValueError if not."""
    trie = _Trie(requests)
    if max(trie.lengths, default=0) > budget.cells:
        raise ValueError(f"a request of {max(trie.lengths)} tokens does not fit into {budget.cells} cells")
    if min(budget.cells, budget.sequences, budget.batch, budget.rows) < 1:
        raise ValueError(f"{budget}: every part of a budget is at least 1")
    distinct = trie.size()
    if budget.copies_states:
        trie.snap(budget.min_shared)
    trie.attach()
    packs = tuple(_packs(trie, budget))
    computed = sum(length - start for pack in packs for length, start in zip(pack.lengths, pack.starts, strict=True))
    naive = sum(len(r.context) + len(r.continuation) - 1 for r in requests)
    wanted = np.array([len(r.continuation) for r in requests], np.int32)
    return Plan(naive, distinct, computed, wanted, budget, trie, packs)


class _Trie:
    """The trie as its leaves in lexicographic order, which is depth first: a leaf shares its first `shared[i]` tokens
    with the leaf before it and computes the rest. A request that is the beginning of another has no leaf of its own.
    """

    def __init__(self, requests: Sequence[ScoreRequest]) -> None:
        self._requests = requests
        paths = [np.array(r.context + r.continuation[:-1], np.int32) for r in requests]
        # big-endian bytes compare as the tokens do, and quickly
        keys = [path.astype(">i4").tobytes() for path in paths]
        order = sorted(range(len(requests)), key=keys.__getitem__)
        self.paths: list[Ints] = []
        self.shared: list[int] = []
        self.members: list[list[int]] = []  # requests of each leaf
        waiting: list[int] = []
        for i, following in zip_longest(order, order[1:]):
            waiting.append(i)
            if following is None or not keys[following].startswith(keys[i]):
                self.shared.append(_common(self.paths[-1], paths[i]) if self.paths else 0)
                self.paths.append(paths[i])
                self.members.append(waiting)
                waiting = []
        self.lengths = [len(path) for path in self.paths]
        self.picks: list[NDArray[np.int64]] = []

    def size(self) -> int:
        return sum(self.lengths) - sum(self.shared)

    def snap(self, min_shared: int) -> None:
        """Let leaves part earlier, where an earlier parting is fewer than `min_shared` tokens away."""
        partings = [0]  # of the path of the leaf before
        for i, shared in enumerate(self.shared):
            while partings[-1] > shared:
                partings.pop()
            if shared - partings[-1] >= min_shared:
                partings.append(shared)
            self.shared[i] = partings[-1]

    def attach(self) -> None:
        """Give the rows that requests want to the leaves that compute them: (position, token, request) of each leaf."""
        wanted: list[list[tuple[int, int, int]]] = [[] for _ in self.paths]
        starts: list[int] = []  # the path's parts in order: where each starts and which leaf computes it
        owners: list[int] = []
        for leaf, members in enumerate(self.members):
            while starts and starts[-1] >= self.shared[leaf]:
                starts.pop()
                owners.pop()
            starts.append(self.shared[leaf])
            owners.append(leaf)
            for i in members:
                request = self._requests[i]
                for position, token in enumerate(request.continuation, len(request.context) - 1):
                    wanted[owners[bisect_right(starts, position) - 1]].append((position, token, i))
        self.picks = [np.array(sorted(rows), np.int64).reshape(-1, 3) for rows in wanted]


def _common(one: Ints, other: Ints) -> int:
    """How many tokens both begin with."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n


@dataclass(frozen=True)
class _Pack:
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


def _packs(trie: _Trie, budget: Budget) -> Iterator[_Pack]:
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
            pack = _Pack(first, tuple(trie.lengths[first:end]), tuple(trie.shared[first:end]))
        yield pack
        first = end


class _States:
    """The states kept from pack to pack: those at which leaves to come part from the path of the last leaf.

    There is `room` for some of them. The others are computed again from the longest kept one before them.
    """

    def __init__(self, trie: _Trie, budget: Budget) -> None:
        self._trie = trie
        self._next = _next_smaller(trie.shared)
        self.room = min(budget.sequences // 2, _deepest(trie.shared))
        self._sequences = list(range(budget.sequences - self.room, budget.sequences))  # beside those of the leaves
        self._kept: dict[int, int] = {}  # length: sequence

    def keeps(self, length: int) -> bool:
        """Whether there is a state to go on from at that length."""
        return length in self._kept

    def pack(self, first: int, end: int) -> _Pack:
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
        return _Pack(first, tuple(lengths[first:end]), tuple(starts), tuple(parents), sources, tuple(keeps), drops)

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


@dataclass(frozen=True)
class _Part:
    """Tokens start .. end - 1 of a leaf's path. Token i belongs to `counts`[i] sequences, from `sequence` downwards."""

    leaf: int
    start: int
    end: int
    sequence: int
    counts: Ints


@dataclass
class _Batch:
    """Any number of tokens, and what is done with the sequences before them."""

    drops: list[int] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)


def _shared_batches(packs: Sequence[_Pack]) -> Iterator[_Batch]:
    """A batch a pack: each token belongs to all leaves of the pack below it.

    The last leaf of a pack is sequence 0, the one before it 1, and so on: sequence 0 then holds what the next pack
    begins with.
    """
    before = 0
    for pack in packs:
        last = len(pack.starts) - 1
        batch = _Batch(drops=list(range(1, before)))
        kept = pack.starts[0]
        for i, start in enumerate(pack.starts):
            kept = min(kept, start)
            if kept and i < last:
                batch.copies.append((0, last - i, kept))
            counts = np.ones(pack.lengths[i] - start, np.int32)
            reach = pack.lengths[i]
            for other in range(i + 1, last + 1):
                reach = min(reach, pack.starts[other])
                if reach <= start:
                    break
                counts[: reach - start] += 1
            batch.parts.append(_Part(pack.first + i, start, pack.lengths[i], last - i, counts))
        if before:
            batch.cuts.append((0, kept))
        before = last + 1
        yield batch


def _copied_batches(trie: _Trie, packs: Sequence[_Pack]) -> Iterator[_Batch]:
    """Batches by depth: what has no parent in the pack, then the branches of that, and so on.

    The first leaf of a pack is sequence 0, the next one 1, and so on.
    """
    finished: list[int] = []
    for pack in packs:
        leaves = list(zip(range(pack.first, pack.first + len(pack.starts)), pack.parents, pack.starts, strict=True))
        batches = [_Batch(drops=finished)]
        finished = list(range(len(leaves)))
        partings: dict[int, dict[int, list[int]]] = {leaf: {} for leaf, _, _ in leaves}  # length: who parts there
        for leaf, parent, start in leaves:
            if parent is None:
                continue
            if parent < 0:
                source, length = pack.sources[-1 - parent]
                batches[0].copies.append((source, leaf - pack.first, length))
            else:
                partings[parent].setdefault(start, []).append(leaf - pack.first)
        for leaf, length, sequence in pack.keeps:
            partings[leaf].setdefault(length, []).append(sequence)
        depth: dict[tuple[int, int], int] = {}  # (leaf, length): the batch in which that may be continued
        for leaf, parent, start in leaves:
            at = 0 if parent is None or parent < 0 else depth[parent, start]
            for length in [*sorted(partings[leaf]), trie.lengths[leaf]]:
                batches[at].parts.append(
                    _Part(leaf, start, length, leaf - pack.first, np.ones(length - start, np.int32))
                )
                start, at = length, at + 1
                targets = partings[leaf].get(length, ())
                if targets and at == len(batches):
                    batches.append(_Batch())
                depth[leaf, length] = at
                if targets:
                    batches[at].copies += [(leaf - pack.first, target, length) for target in targets]
        if len(batches) > 1:
            batches[1].drops += pack.drops
        else:
            finished += pack.drops
        yield from batches


def _split(trie: _Trie, batch: _Batch, budget: Budget) -> Iterator[Step]:
    """The batch in steps of at most `budget.batch` tokens and `budget.rows` rows."""
    tokens = np.concatenate([trie.paths[part.leaf][part.start : part.end] for part in batch.parts])
    positions = np.concatenate([np.arange(part.start, part.end, dtype=np.int32) for part in batch.parts])
    counts = np.concatenate([part.counts for part in batch.parts])
    firsts = np.concatenate([np.full(len(part.counts), part.sequence, np.int32) for part in batch.parts])
    ends = np.cumsum(counts)
    sequences = (np.repeat(firsts + ends - counts, counts) - np.arange(ends[-1])).astype(np.int32)
    wanted = np.zeros(len(tokens), dtype=bool)
    picked = []
    offset = 0
    for part in batch.parts:
        picks = trie.picks[part.leaf]
        here = slice(*np.searchsorted(picks[:, 0], (part.start, part.end)))
        picked.append(picks[here] + np.array([offset - part.start, 0, 0]))
        offset += part.end - part.start
    places, pick_tokens, pick_requests = np.concatenate(picked).T
    wanted[places] = True
    row_ends = np.cumsum(wanted)
    start = row = 0
    while start < len(tokens):
        end = min(start + budget.batch, int(np.searchsorted(row_ends, row + budget.rows, side="right")))
        here = slice(*np.searchsorted(places, (start, end)))
        yield Step(
            drops=tuple(batch.drops) if start == 0 else (),
            copies=tuple(batch.copies) if start == 0 else (),
            cuts=tuple(batch.cuts) if start == 0 else (),
            tokens=tokens[start:end],
            positions=positions[start:end],
            counts=counts[start:end],
            sequences=sequences[ends[start] - counts[start] : ends[end - 1]],
            wanted=wanted[start:end],
            pick_rows=row_ends[places[here]] - 1 - row,
            pick_tokens=pick_tokens[here],
            pick_requests=pick_requests[here],
        )
        start, row = end, int(row_ends[end - 1])
