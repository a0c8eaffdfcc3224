"""An Engine that uses a causal language model of transformers.

For models with attention alone, a call is one forward pass with one row, without padding: it contains the tokens of all
sequences, and a mask lets each token read the cells of its own sequence. For models with recurrent states, each
sequence is a row. The rows of a pass have equal lengths, so that the states after the pass are exact. Only rows whose
sequences are not continued may be padded.

Tokens of images get their embeddings and M-RoPE positions here; the vision tower has already run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from sweep.backends.batch_limit import BatchLimit, Span, joined
from sweep.backends.prompt_images import PromptImages, RotaryPositions
from sweep.backends.torch_cache import Access, CacheShape, Ints, SequenceCells, SharedCache
from sweep.backends.trie import EngineStep


@dataclass(frozen=True)
class _SequenceRun:
    """Tokens start .. end - 1 of a call, all of the same sequence. `last`: the sequence is not continued."""

    sequence: int
    start: int
    end: int
    last: bool


@dataclass(frozen=True)
class _Pass:
    """A forward pass over up to `length` tokens of each run, from its token start + `skip` on."""

    runs: tuple[_SequenceRun, ...]
    skip: int
    length: int

    @property
    def tokens(self) -> int:
        return len(self.runs) * self.length

    def pieces(self, most: int) -> Iterator[_Pass]:
        """Passes with fewer runs. A run that is too long alone is divided, and its parts are computed in order."""
        together = max(1, most // self.length)
        for first in range(0, len(self.runs), together):
            runs = self.runs[first : first + together]
            end = self.skip + min(self.length, max(run.end - run.start for run in runs) - self.skip)
            for skip in range(self.skip, end, most):
                yield _Pass(runs, skip, min(most, end - skip))


class TorchEngine:
    """See Engine.

    Its cache has `cells` cells for `sequences` sequences of at most `longest` tokens. Logits are computed in slices of
    at most `logits_bytes`. `limit` belongs to the device and outlives the engine. `images` are those of the prompts.
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
        images: PromptImages | None = None,
    ) -> None:
        self._model = model
        self._device = model.device
        self._limit = limit
        self._head = model.get_output_embeddings()
        self._images = images
        self._rotary = None if images is None else RotaryPositions(images, sequences, longest)
        self._table = SequenceCells(cells, sequences, longest)
        self._cache = SharedCache(shape, cells, sequences)
        self._n_vocab: int = model.config.get_text_config().vocab_size
        self._slice = max(1, logits_bytes // (4 * self._n_vocab))
        self.n_batch = n_batch
        self.copies_states = shape.copies_states

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        self._table.copy(source, target, length)
        if self._rotary is not None:
            self._rotary.copy(source, target)
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
    def log_probs(self, step: EngineStep) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        hidden = self._hidden(step.tokens, step.positions, step.sequences, step.counts, step.outputs, step.finished)
        values = np.empty(len(step.pick_rows), np.float64)
        most_probable = np.empty(len(step.pick_rows), dtype=bool)
        order = np.argsort(step.pick_rows, kind="stable")
        ordered = step.pick_rows[order]

        def pick(span: Span) -> None:
            picks = order[slice(*np.searchsorted(ordered, (span.start, span.end)))]
            logits = self._head(hidden[span.slice]).float()
            rows = self._tensor(step.pick_rows[picks] - span.start)
            tokens = self._tensor(step.pick_tokens[picks])
            values[picks] = (logits[rows, tokens].double() - logits.logsumexp(-1).double()[rows]).cpu().numpy()
            most_probable[picks] = (logits.argmax(-1)[rows] == tokens).cpu().numpy()

        for span in Span(0, len(hidden)).pieces(self._slice):
            self._limit.run(span, pick)
        return values, most_probable

    @torch.inference_mode()
    def logits(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        hidden = self._hidden(tokens, positions, sequences, np.ones(len(tokens), np.int64), outputs, ())
        found = np.empty((len(hidden), self._n_vocab), np.float32)
        for span in Span(0, len(hidden)).pieces(self._slice):
            parts = self._limit.run(span, lambda span: self._head(hidden[span.slice]).float().cpu())
            found[span.slice] = joined(parts).numpy()
        return found

    @torch.inference_mode()
    def greedy(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
    ) -> list[int]:
        counts = np.ones(len(tokens), np.int64)
        hidden = self._hidden(tokens, positions, sequences, counts, outputs, ())
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
        outputs: NDArray[np.bool_],
        finished: Sequence[int],
    ) -> torch.Tensor:
        """The last layer's states (m, width) of the m tokens that `outputs` marks, in the order of the tokens."""
        places = positions.astype(np.int64)
        cells = self._table.take(places, sequences, counts)
        rotary = places if self._rotary is None else self._rotary.take(tokens, positions, sequences, counts)
        rows = np.flatnonzero(outputs)
        if not self.copies_states:
            owners = sequences[np.cumsum(counts) - counts]
            whole = Span(0, len(tokens))
            parts = self._limit.run(
                whole, partial(self._row, tokens=tokens, positions=places, rotary=rotary, owners=owners, cells=cells)
            )
            return joined(parts)[self._tensor(rows)]
        found: torch.Tensor | None = None
        row_of = np.cumsum(outputs) - 1
        run = partial(self._rows, tokens=tokens, positions=places, rotary=rotary, cells=cells)
        for part in _passes(_runs(sequences, finished)):
            for at, states in self._limit.run(part, run):
                if found is None:
                    found = states.new_empty((len(rows), states.shape[-1]))
                here = outputs[at]
                found[self._tensor(row_of[at[here]])] = states[self._tensor(np.flatnonzero(here))]
        assert found is not None
        return found

    def _row(
        self,
        span: Span,
        tokens: NDArray[np.integer],
        positions: Ints,
        rotary: Ints,
        owners: NDArray[np.integer],
        cells: Ints,
    ) -> torch.Tensor:
        """States (n, width) of the span's n tokens, computed in one row.

        `rotary` (n,) or (3, n) are the positions that the model gets. `owners` (n,) is one of the sequences of each
        token. All sequences of a token are equal up to it, so any of them can be its owner. A token comes after the
        tokens that it continues.
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
        return self._forward(tokens[None], rotary[..., None, at], seen[None])[0]

    def _rows(
        self, part: _Pass, tokens: NDArray[np.integer], positions: Ints, rotary: Ints, cells: Ints
    ) -> tuple[Ints, torch.Tensor]:
        """The indices in the call (n,) of the n tokens of a pass, and their states (n, width)."""
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
        states = self._forward(tokens[at], rotary[..., at], seen)[mask]
        for layer in self._cache.states:
            layer.store(rows)
        return at[real], states

    def _forward(self, tokens: NDArray[np.integer], positions: Ints, seen: NDArray[np.bool_]) -> torch.Tensor:
        """States (rows, columns, width); `seen` (rows, columns, cells read) says which cells each token reads.

        `positions` are (rows, columns), or (3, rows, columns) for M-RoPE.
        """
        dtype = self._model.dtype
        mask = torch.zeros((len(seen), 1, *seen.shape[1:]), dtype=dtype, device=self._device)
        mask.masked_fill_(self._tensor(~seen)[:, None], torch.finfo(dtype).min)
        inputs: dict[str, Any] = {"input_ids": self._tensor(tokens.astype(np.int64))}
        module: Any = self._model.base_model
        if self._images is not None and (tokens < 0).any():
            inputs, module = self._with_embeddings(tokens, self._images), self._model.get_decoder()
        states: torch.Tensor = module(
            **inputs,
            attention_mask=mask,
            position_ids=self._tensor(positions),
            past_key_values=self._cache.cache,
            use_cache=True,
        ).last_hidden_state
        return states

    def _with_embeddings(self, tokens: NDArray[np.integer], images: PromptImages) -> dict[str, Any]:
        """The decoder's inputs for tokens (rows, columns), some of them images'."""
        image = self._tensor(tokens < 0)
        embed = self._model.get_input_embeddings()
        inputs = embed(self._tensor(np.maximum(tokens, 0).astype(np.int64)))
        width = inputs.shape[-1]
        rows = torch.from_numpy(images.embeddings(tokens[tokens < 0])).to(self._device, inputs.dtype)
        inputs[image] = rows[:, :width]
        if images.width == width:
            return {"inputs_embeds": inputs}
        stacked = list(rows[:, width:].split(width, dim=1))
        return {"inputs_embeds": inputs, "visual_pos_masks": image, "deepstack_visual_embeds": stacked}

    def _tensor(self, array: NDArray[np.integer] | NDArray[np.bool_]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _runs(sequences: NDArray[np.integer], finished: Sequence[int]) -> list[_SequenceRun]:
    """Consecutive tokens of the same sequence; the sequences in `finished` are not continued."""
    starts = np.flatnonzero(np.diff(sequences, prepend=sequences[0] - 1))
    ends = [*starts[1:].tolist(), len(sequences)]
    ended = set(finished)
    return [
        _SequenceRun(int(sequences[start]), start, end, int(sequences[start]) in ended)
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]


def _passes(runs: Sequence[_SequenceRun]) -> Iterator[_Pass]:
    """Passes that compute every token of every run once, in order."""
    by_length = sorted(runs, key=lambda run: run.end - run.start, reverse=True)
    continued = [run for run in by_length if not run.last]
    skip = 0
    while continued:
        length = continued[-1].end - continued[-1].start - skip
        if length:
            yield _Pass(tuple(continued), skip, length)
            skip += length
        continued.pop()
    last = [run for run in by_length if run.last]
    while last:  # padded to at most twice the length of the shortest one
        length = last[0].end - last[0].start
        together = sum(2 * (run.end - run.start) >= length for run in last)
        yield _Pass(tuple(last[:together]), 0, length)
        last = last[together:]
