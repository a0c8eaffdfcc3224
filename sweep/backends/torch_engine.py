"""An Engine over a causal language model of transformers.

With attention alone, a call is one forward pass over one row: tokens of all sequences side by side, each seeing the
cells of its own sequence (a mask says which), nothing padded. With recurrent states a sequence is a row of its own: a
pass takes rows that are equally long, so that the states it leaves are exact; those which nothing goes on from may be
padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from sweep.backends.batch_limit import BatchLimit, Span, joined
from sweep.backends.torch_cache import Access, CacheShape, CellTable, Ints, SharedCache
from sweep.backends.trie import Step


@dataclass(frozen=True)
class _Run:
    """Tokens start .. end - 1 of a call, all of one sequence; nothing goes on from them where they are its `last`."""

    sequence: int
    start: int
    end: int
    last: bool


@dataclass(frozen=True)
class _Pass:
    """A forward pass over the tokens start + `skip` .. of each run, `length` at most."""

    runs: tuple[_Run, ...]
    skip: int
    length: int

    @property
    def tokens(self) -> int:
        return len(self.runs) * self.length

    def pieces(self, most: int) -> Iterator[_Pass]:
        """Fewer runs in each; one run alone in parts, which its states go through one after the other."""
        together = max(1, most // self.length)
        for first in range(0, len(self.runs), together):
            runs = self.runs[first : first + together]
            end = self.skip + min(self.length, max(run.end - run.start for run in runs) - self.skip)
            for skip in range(self.skip, end, most):
                yield _Pass(runs, skip, min(most, end - skip))


class TorchEngine:
    """See Engine. Its cache has `cells` and `sequences`, none longer than `longest`. Logits are made in slices of at
    most `logits_bytes`. `limit` is the device's, and outlives the engine.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shape: CacheShape,
        *,
        cells: int,
        sequences: int,
        longest: int,
        n_batch: int,
        logits_bytes: int,
        limit: BatchLimit,
    ) -> None:
        self._model = model
        self._device = model.device
        self._limit = limit
        self._head = model.get_output_embeddings()
        self._table = CellTable(cells, sequences, longest)
        self._cache = SharedCache(shape, cells, sequences)
        self._slice = max(1, logits_bytes // (4 * model.config.get_text_config().vocab_size))
        self.n_batch = n_batch
        self.copies_states = shape.copies_states

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        self._table.copy(source, target, length)
        for layer in self._cache.states:
            layer.copy(source, target)

    def cut(self, sequence: int, length: int = 0) -> None:
        self._table.cut(sequence, length)
        for layer in self._cache.states:
            layer.clear([sequence])

    def clear(self) -> None:
        self._table.clear()
        for layer in self._cache.states:
            layer.clear(slice(None))

    @torch.inference_mode()
    def log_probs(self, step: Step) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        hidden = self._hidden(step.tokens, step.positions, step.sequences, step.counts, step.wanted, step.finished)
        values = np.empty(len(step.pick_rows), np.float64)
        likeliest = np.empty(len(step.pick_rows), dtype=bool)
        order = np.argsort(step.pick_rows, kind="stable")
        ordered = step.pick_rows[order]

        def pick(span: Span) -> None:
            picks = order[slice(*np.searchsorted(ordered, (span.start, span.end)))]
            logits = self._head(hidden[span.slice]).float()
            rows = self._tensor(step.pick_rows[picks] - span.start)
            tokens = self._tensor(step.pick_tokens[picks])
            values[picks] = (logits[rows, tokens].double() - logits.logsumexp(-1).double()[rows]).cpu().numpy()
            likeliest[picks] = (logits.argmax(-1)[rows] == tokens).cpu().numpy()

        for span in Span(0, len(hidden)).pieces(self._slice):
            self._limit.run(span, pick)
        return values, likeliest

    @torch.inference_mode()
    def greedy(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        wanted: NDArray[np.bool_],
    ) -> list[int]:
        counts = np.ones(len(tokens), np.int64)
        hidden = self._hidden(tokens, positions, sequences, counts, wanted, ())
        best: list[torch.Tensor] = []
        for span in Span(0, len(hidden)).pieces(self._slice):
            best += self._limit.run(span, lambda span: self._head(hidden[span.slice]).argmax(-1))
        return [token for part in best for token in part.tolist()]

    def _hidden(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        counts: NDArray[np.integer],
        wanted: NDArray[np.bool_],
        finished: Sequence[int],
    ) -> torch.Tensor:
        """The last layer's states (m, width) of the m tokens that are `wanted`, in the order of the tokens."""
        places = positions.astype(np.int64)
        cells = self._table.take(places, sequences, counts)
        rows = np.flatnonzero(wanted)
        if not self.copies_states:
            owners = sequences[np.cumsum(counts) - counts]
            whole = Span(0, len(tokens))
            parts = self._limit.run(
                whole, partial(self._row, tokens=tokens, positions=places, owners=owners, cells=cells)
            )
            return joined(parts)[self._tensor(rows)]
        found: torch.Tensor | None = None
        row_of = np.cumsum(wanted) - 1
        run = partial(self._rows, tokens=tokens, positions=places, cells=cells)
        for part in _passes(_runs(sequences, finished)):
            for at, states in self._limit.run(part, run):
                if found is None:
                    found = states.new_empty((len(rows), states.shape[-1]))
                here = wanted[at]
                found[self._tensor(row_of[at[here]])] = states[self._tensor(np.flatnonzero(here))]
        assert found is not None
        return found

    def _row(
        self, span: Span, tokens: NDArray[np.integer], positions: Ints, owners: NDArray[np.integer], cells: Ints
    ) -> torch.Tensor:
        """States (n, width) of the span's n tokens in one row. All sequences of a token are one up to it: any of them
        will do, and it comes after those that it continues.
        """
        at = span.slice
        tokens, positions, owners, cells = tokens[at], positions[at], owners[at], cells[at]
        n, used = len(tokens), self._table.used
        seen = np.zeros((n, used), dtype=bool)
        for run in _runs(owners, ()):
            own = self._table.of(run.sequence)
            seen[run.start : run.end, own] = np.arange(len(own)) <= positions[run.start : run.end, None]
        real = torch.ones((1, n), dtype=torch.bool, device=self._device)
        self._cache.point(Access(self._tensor(cells), real, None, used))
        return self._forward(tokens[None], positions[None], seen[None])[0]

    def _rows(
        self, part: _Pass, tokens: NDArray[np.integer], positions: Ints, cells: Ints
    ) -> tuple[Ints, torch.Tensor]:
        """Where in the call the n tokens of a pass are (n,), and their states (n, width)."""
        starts = np.array([run.start + part.skip for run in part.runs])
        lengths = np.minimum(part.length, np.array([run.end for run in part.runs]) - starts)
        real = np.arange(part.length) < lengths[:, None]
        at = np.where(real, starts[:, None] + np.arange(part.length), starts[:, None])
        read_lengths = positions[starts] + lengths
        read = np.zeros((len(starts), int(read_lengths.max())), np.int64)
        for row, run in enumerate(part.runs):
            read[row, : read_lengths[row]] = self._table.of(run.sequence)[: read_lengths[row]]
        places = positions[starts][:, None] + np.arange(part.length)
        seen = np.arange(read.shape[1]) <= places[:, :, None]
        mask = self._tensor(real)
        self._cache.point(Access(self._tensor(cells[at[real]]), mask, self._tensor(read), self._table.used))
        rows = self._tensor(np.array([run.sequence for run in part.runs]))
        for layer in self._cache.states:
            layer.load(rows)
        states = self._forward(tokens[at], places, seen)[mask]
        for layer in self._cache.states:
            layer.store(rows)
        return at[real], states

    def _forward(self, tokens: NDArray[np.integer], positions: Ints, seen: NDArray[np.bool_]) -> torch.Tensor:
        """States (rows, columns, width); `seen` (rows, columns, cells read) says which cells each token sees."""
        dtype = self._model.dtype
        mask = torch.zeros((len(seen), 1, *seen.shape[1:]), dtype=dtype, device=self._device)
        mask.masked_fill_(self._tensor(~seen)[:, None], torch.finfo(dtype).min)
        states: torch.Tensor = self._model.base_model(
            input_ids=self._tensor(tokens.astype(np.int64)),
            attention_mask=mask,
            position_ids=self._tensor(positions),
            past_key_values=self._cache.cache,
            use_cache=True,
        ).last_hidden_state
        return states

    def _tensor(self, array: NDArray[np.integer] | NDArray[np.bool_]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _runs(sequences: NDArray[np.integer], finished: Sequence[int]) -> list[_Run]:
    """Neighbouring tokens of the same sequence."""
    starts = np.flatnonzero(np.diff(sequences, prepend=sequences[0] - 1))
    ends = [*starts[1:].tolist(), len(sequences)]
    ended = set(finished)
    return [
        _Run(int(sequences[start]), start, end, int(sequences[start]) in ended)
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]


def _passes(runs: Sequence[_Run]) -> Iterator[_Pass]:
    """Every token of every run once, in order."""
    by_length = sorted(runs, key=lambda run: run.end - run.start, reverse=True)
    going = [run for run in by_length if not run.last]
    skip = 0
    while going:
        length = going[-1].end - going[-1].start - skip
        if length:
            yield _Pass(tuple(going), skip, length)
            skip += length
        going.pop()
    last = [run for run in by_length if run.last]
    while last:  # padded to no more than twice the shortest
        length = last[0].end - last[0].start
        together = sum(2 * (run.end - run.start) >= length for run in last)
        yield _Pass(tuple(last[:together]), 0, length)
        last = last[together:]
