"""Turns packs into calls of an engine: the tokens, their sequences, and the operations before each call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sweep.backends.trie.budget import PlanBudget
from sweep.backends.trie.packs import Pack
from sweep.backends.trie.token_trie import Ints, Trie


@dataclass(frozen=True)
class EngineStep:
    """One call of the engine, with the operations on sequences before it. Sequences are numbered from 0.

    In this order:

    - `drops`: sequences to remove;
    - `copies`: (source, target, length): copy the first `length` tokens of `source` to the empty sequence `target`.
      With recurrent states, `length` is the length of `source`;
    - `cuts`: (sequence, length): remove all but the first `length` tokens (never with recurrent states);
    - compute the n `tokens` at `positions` (n,): token i belongs to `counts`[i] sequences, the next ones in `sequences`
      (sum of counts,), and continues each of them;
    - `finished`: the sequences that no later step continues or copies (only set with recurrent states);
    - logits are needed after the m tokens that are marked in `outputs` (n,), one row per token, in their order.

    `pick_rows`, `pick_tokens`, `pick_requests` (k,) say for which request: request `pick_requests`[i] needs the
    log-probability of `pick_tokens`[i] in row `pick_rows`[i] < m.
    """

    drops: tuple[int, ...]
    copies: tuple[tuple[int, int, int], ...]
    cuts: tuple[tuple[int, int], ...]
    tokens: Ints
    positions: Ints
    counts: Ints
    sequences: Ints
    finished: tuple[int, ...]
    outputs: NDArray[np.bool_]
    pick_rows: NDArray[np.int64]
    pick_tokens: NDArray[np.int64]
    pick_requests: NDArray[np.int64]


def steps(trie: Trie, packs: Sequence[Pack], budget: PlanBudget) -> Iterator[EngineStep]:
    """The calls of an engine, in order, that compute all `packs` of the `trie`."""
    for batch in _copied_batches(trie, packs) if budget.copies_states else _shared_batches(packs):
        yield from _split(trie, batch, budget)


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
    """Any number of tokens, and the operations on sequences before them."""

    drops: list[int] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)


def _shared_batches(packs: Sequence[Pack]) -> Iterator[_Batch]:
    """One batch per pack: each token belongs to all leaves of the pack whose paths contain it.

    The last leaf of a pack is sequence 0, the leaf before it is sequence 1, and so on, so that sequence 0 contains the
    prefix with which the next pack begins.
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


def _copied_batches(trie: Trie, packs: Sequence[Pack]) -> Iterator[_Batch]:
    """Batches by depth: leaves without a parent in the pack, then the branches of these leaves, and so on.

    The first leaf of a pack is sequence 0, the next leaf is sequence 1, and so on.
    """
    finished: list[int] = []
    for pack in packs:
        leaves = list(zip(range(pack.first, pack.first + len(pack.starts)), pack.parents, pack.starts, strict=True))
        batches = [_Batch(drops=finished)]
        finished = list(range(len(leaves)))
        # for each leaf: length -> sequences that branch off there
        branchings: dict[int, dict[int, list[int]]] = {leaf: {} for leaf, _, _ in leaves}
        for leaf, parent, start in leaves:
            if parent is None:
                continue
            if parent < 0:
                source, length = pack.sources[-1 - parent]
                batches[0].copies.append((source, leaf - pack.first, length))
            else:
                branchings[parent].setdefault(start, []).append(leaf - pack.first)
        for leaf, length, sequence in pack.keeps:
            branchings[leaf].setdefault(length, []).append(sequence)
        depth: dict[tuple[int, int], int] = {}  # (leaf, length): the batch in which this prefix can be continued
        for leaf, parent, start in leaves:
            at = 0 if parent is None or parent < 0 else depth[parent, start]
            for length in [*sorted(branchings[leaf]), trie.lengths[leaf]]:
                batches[at].parts.append(
                    _Part(leaf, start, length, leaf - pack.first, np.ones(length - start, np.int32))
                )
                start, at = length, at + 1
                targets = branchings[leaf].get(length, ())
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


def _split(trie: Trie, batch: _Batch, budget: PlanBudget) -> Iterator[EngineStep]:
    """The batch in steps of at most `budget.batch` tokens and `budget.rows` rows."""
    tokens = np.concatenate([trie.paths[part.leaf][part.start : part.end] for part in batch.parts])
    positions = np.concatenate([np.arange(part.start, part.end, dtype=np.int32) for part in batch.parts])
    counts = np.concatenate([part.counts for part in batch.parts])
    firsts = np.concatenate([np.full(len(part.counts), part.sequence, np.int32) for part in batch.parts])
    ends = np.cumsum(counts)
    sequences = (np.repeat(firsts + ends - counts, counts) - np.arange(ends[-1])).astype(np.int32)
    outputs = np.zeros(len(tokens), dtype=bool)
    picked = []
    finished: list[tuple[int, int]] = []  # sequence, and the index of its last token
    offset = 0
    for part in batch.parts:
        picks = trie.picks[part.leaf]
        here = slice(*np.searchsorted(picks[:, 0], (part.start, part.end)))
        picked.append(picks[here] + np.array([offset - part.start, 0, 0]))
        offset += part.end - part.start
        if budget.copies_states and part.end == trie.lengths[part.leaf]:
            finished.append((part.sequence, offset - 1))
    places, pick_tokens, pick_requests = np.concatenate(picked).T
    outputs[places] = True
    row_ends = np.cumsum(outputs)
    start = row = 0
    while start < len(tokens):
        end = min(start + budget.batch, int(np.searchsorted(row_ends, row + budget.rows, side="right")))
        here = slice(*np.searchsorted(places, (start, end)))
        yield EngineStep(
            drops=tuple(batch.drops) if start == 0 else (),
            copies=tuple(batch.copies) if start == 0 else (),
            cuts=tuple(batch.cuts) if start == 0 else (),
            tokens=tokens[start:end],
            positions=positions[start:end],
            counts=counts[start:end],
            sequences=sequences[ends[start] - counts[start] : ends[end - 1]],
            finished=tuple(sequence for sequence, last in finished if start <= last < end),
            outputs=outputs[start:end],
            pick_rows=row_ends[places[here]] - 1 - row,
            pick_tokens=pick_tokens[here],
            pick_requests=pick_requests[here],
        )
        start, row = end, int(row_ends[end - 1])
