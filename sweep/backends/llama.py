"""A Backend over llama.cpp in this process.

Scoring packs many requests into a batch. Requests of the same context compute it once: a token of llama.cpp's batch
may belong to several sequences, so the context belongs to all its branches, and continuations of one token need no
branch. Generation keeps a fixed number of slots busy: as some finish, the next prompts take their places.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from converters.errors import InputError
from converters.llamacpp.load import ALL_IN_RAM, LoadOptions
from converters.llamacpp.model import Context, ContextOptions, Model
from sweep.backends.base import (
    Generation,
    GenerationRequest,
    MemoryUse,
    Progress,
    Score,
    ScoreRequest,
    Tokens,
    WindowLogits,
)
from sweep.backends.logits import log_normalizers

MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ
CELL_ALIGNMENT = 256  # llama.cpp pads contexts to this many cells
PACK_CELLS = 512  # requests scored in one batch share its attention span: one of this length is the fastest on a CPU
LOGITS_BYTES = 256 << 20  # a decode call asks for no more logits than this
MIN_SHARED = 16  # tokens; copying a shorter prefix to every slot costs more than computing it
REFILL_SHARE = 8  # slots are refilled once one in so many is idle: prompts together make fuller batches


@dataclass(frozen=True)
class LlamaOptions:
    """Settings of a measurement; the defaults are llama-perplexity's. `n_ctx` bounds the context (else: the model's).

    `slots` is how many sequences generate at once at most, `cache_bytes` bounds the KV cache that they share.
    """

    n_ctx: int | None = None
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"
    n_threads: int | None = None
    load: LoadOptions = ALL_IN_RAM
    slots: int = 64
    cache_bytes: int = 1 << 30


@dataclass
class _Branch:
    """Requests of one context that share its tokens; the first token of each is read from the context's last row."""

    context: tuple[int, ...]
    members: list[int] = field(default_factory=list)  # indices of requests
    cells: int = 0
    sequences: int = 1


class LlamaBackend:
    """See Backend. Not thread safe; one context is alive at a time."""

    def __init__(self, path: str | Path, options: LlamaOptions | None = None) -> None:
        self.options = options or LlamaOptions()
        self._process = psutil.Process()
        self._resident_before = self._resident_peak = self._process.memory_info().rss
        self.model = Model(path, self.options.load)
        self._context: Context | None = None
        self._allocated_peak = self.model.allocated_bytes
        self.n_vocab = self.model.n_vocab
        self.max_length = min(self.options.n_ctx or self.model.n_ctx_train, self.model.n_ctx_train)
        self.add_bos = self.model.add_bos
        self.eos_id = self.model.eos_id
        self.bos_id = self.model.bos_id
        self.prefix_id = self.model.bos_id if self.model.add_bos else self.model.eos_id
        self.end_ids = self.model.eog_ids
        self.chat_template = self.model.chat_template

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None
        self.model.close()

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        return self.model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self.model.detokenize(tuple(tokens), special=special)

    def memory(self) -> MemoryUse:
        self._sample_memory()
        return MemoryUse(self._allocated_peak, self._resident_peak - self._resident_before)

    def _sample_memory(self) -> None:
        self._resident_peak = max(self._resident_peak, self._process.memory_info().rss)

    def _take_context(self, cells: int, sequences: int, *, unified: bool, n_batch: int | None = None) -> Context:
        """An empty context of at least `cells`, the present one where it is of that very shape."""
        options = ContextOptions(
            n_ctx=-(-cells // CELL_ALIGNMENT) * CELL_ALIGNMENT,
            n_batch=n_batch or self.options.n_batch,
            n_ubatch=self.options.n_ubatch,
            n_seq_max=sequences,
            kv_unified=unified,
            type_k=self.options.type_k,
            type_v=self.options.type_v,
            flash_attn=self.options.flash_attn,
            n_threads=self.options.n_threads,
        )
        if self._context is not None and self._context.options == options:
            self._context.clear()
            return self._context
        if self._context is not None:
            self._context.close()
            self._context = None
        self._context = self.model.context(options)
        self._allocated_peak = max(self._allocated_peak, self.model.allocated_bytes + self._context.allocated_bytes)
        return self._context

    # windows ---------------------------------------------------------------------------------------------------------

    def windows(self, tokens: Tokens, first: int, *, parallel: int | None = None) -> Iterator[WindowLogits]:
        """As llama-perplexity batches them: n_batch // n_ctx windows at once, each a sequence with its own cells."""
        n_windows, n_ctx = tokens.shape
        if n_ctx > self.model.n_ctx_train:
            raise InputError(f"{self.model.path}: a context of {n_ctx} is beyond the model's {self.model.n_ctx_train}")
        together = parallel or max(1, self.options.n_batch // n_ctx)
        n_batch = min(self.options.n_batch, together * n_ctx)
        context = self._take_context(together * n_ctx, together, unified=False, n_batch=n_batch)
        wanted = np.zeros(n_ctx, dtype=bool)
        wanted[first : n_ctx - 1] = True
        positions = np.arange(n_ctx, dtype=np.int32)
        for at in range(0, n_windows, together):
            group = tokens[at : at + together]
            context.clear()
            if group.size > n_batch:  # windows longer than a batch come alone (`together` is 1), in parts
                yield from self._long_window(context, at, group[0], wanted)
                continue
            n = len(group)
            logits = context.decode(
                group.ravel(), np.tile(positions, n), np.repeat(np.arange(n, dtype=np.int32), n_ctx), np.tile(wanted, n)
            )
            rows = n_ctx - 1 - first
            for i in range(n):
                yield WindowLogits(at + i, first, logits[i * rows : (i + 1) * rows])
        self._sample_memory()

    def _long_window(
        self, context: Context, window: int, tokens: Tokens, wanted: NDArray[np.bool_]
    ) -> Iterator[WindowLogits]:
        for start in range(0, len(tokens), context.n_batch):
            part = slice(start, start + context.n_batch)
            n = len(tokens[part])
            logits = context.decode(
                tokens[part], np.arange(start, start + n, dtype=np.int32), np.zeros(n, np.int32), wanted[part]
            )
            if len(logits):
                yield WindowLogits(window, start + int(np.argmax(wanted[part])), logits)

    # log-likelihoods -------------------------------------------------------------------------------------------------

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Progress | None = None) -> list[Score]:
        if not requests:
            return []
        for request in requests:
            if not request.context or not request.continuation:
                raise InputError("a log-likelihood request needs at least one token of context and one of continuation")
        longest = max(len(r.context) + len(r.continuation) - 1 for r in requests)
        if longest > self.max_length:
            raise InputError(f"a request of {longest} tokens is longer than the context of {self.max_length}")
        cells = max(PACK_CELLS, -(-longest // CELL_ALIGNMENT) * CELL_ALIGNMENT)
        context = self._take_context(cells, MAX_SEQUENCES, unified=True)
        logprobs = np.zeros(len(requests), np.float64)
        greedy = np.ones(len(requests), dtype=bool)
        done = 0
        for pack in self._packs(requests, cells):
            context.clear()
            self._score(context, requests, pack, logprobs, greedy)
            done += sum(len(branch.members) for branch in pack)
            if progress:
                progress(done, len(requests))
        self._sample_memory()
        return [Score(float(logprob), bool(same)) for logprob, same in zip(logprobs, greedy, strict=True)]

    def _packs(self, requests: Sequence[ScoreRequest], cells: int) -> Iterator[list[_Branch]]:
        """Requests grouped by context, groups gathered while they fit into the cells and sequences there are."""
        by_context: dict[tuple[int, ...], list[int]] = {}
        for i, request in enumerate(requests):
            by_context.setdefault(request.context, []).append(i)
        pack: list[_Branch] = []
        used = sequences = 0
        for branch in self._branches(requests, by_context, cells):
            if pack and (used + branch.cells > cells or sequences + branch.sequences > MAX_SEQUENCES):
                yield pack
                pack, used, sequences = [], 0, 0
            pack.append(branch)
            used += branch.cells
            sequences += branch.sequences
        if pack:
            yield pack

    def _branches(
        self, requests: Sequence[ScoreRequest], by_context: dict[tuple[int, ...], list[int]], cells: int
    ) -> Iterator[_Branch]:
        for context, members in by_context.items():
            branch = _Branch(context, cells=len(context))
            long_ones = 0
            for i in members:
                extra = len(requests[i].continuation) - 1
                # a recurrent state cannot belong to two sequences, so there each long continuation comes with its own
                full = self.model.is_recurrent and extra and long_ones
                if branch.members and (full or branch.cells + extra > cells or long_ones == MAX_SEQUENCES):
                    branch.sequences = max(1, long_ones)
                    yield branch
                    branch, long_ones = _Branch(context, cells=len(context)), 0
                branch.members.append(i)
                branch.cells += extra
                long_ones += extra > 0
            branch.sequences = max(1, long_ones)
            yield branch

    def _score(
        self,
        context: Context,
        requests: Sequence[ScoreRequest],
        pack: list[_Branch],
        logprobs: NDArray[np.float64],
        greedy: NDArray[np.bool_],
    ) -> None:
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        counts: list[int] = []
        outputs: list[bool] = []
        picks: list[tuple[int, int, int]] = []  # row of logits, token wanted there, request
        rows = next_sequence = 0
        for branch in pack:
            n = len(branch.context)
            own = range(next_sequence, next_sequence + branch.sequences)
            next_sequence += branch.sequences
            tokens += branch.context
            positions += range(n)
            sequences += list(own) * n
            counts += [branch.sequences] * n
            outputs += [False] * (n - 1) + [True]
            stem = rows
            rows += 1
            free = iter(own)
            for i in branch.members:
                continuation = requests[i].continuation
                picks.append((stem, continuation[0], i))
                extra = len(continuation) - 1
                if extra:
                    tokens += continuation[:-1]
                    positions += range(n, n + extra)
                    sequences += [next(free)] * extra
                    counts += [1] * extra
                    outputs += [True] * extra
                    picks += [(rows + k, continuation[k + 1], i) for k in range(extra)]
                    rows += extra
        pick_rows, pick_tokens, pick_requests = np.array(picks, dtype=np.int64).T
        for row, logits in self._decode_all(context, tokens, positions, sequences, outputs, counts):
            here = (pick_rows >= row) & (pick_rows < row + len(logits))
            at, wanted, request = pick_rows[here] - row, pick_tokens[here], pick_requests[here]
            normalizers = log_normalizers(logits)
            np.add.at(logprobs, request, logits[at, wanted].astype(np.float64) - normalizers[at])
            np.logical_and.at(greedy, request, logits.argmax(axis=1)[at] == wanted)

    def _decode_all(
        self,
        context: Context,
        tokens: list[int],
        positions: list[int],
        sequences: list[int],
        outputs: list[bool],
        counts: list[int],
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Decode any number of tokens in calls bounded by n_batch and LOGITS_BYTES; (first row, logits) of each."""
        token, position = np.array(tokens, np.int32), np.array(positions, np.int32)
        sequence, count, output = np.array(sequences, np.int32), np.array(counts, np.int32), np.array(outputs)
        sequence_ends, row_ends = np.cumsum(count), np.cumsum(output)
        max_rows = max(1, LOGITS_BYTES // (4 * self.n_vocab))
        start = row = 0
        while start < len(token):
            end = min(start + context.n_batch, int(np.searchsorted(row_ends, row + max_rows, side="right")))
            part = slice(start, end)
            owners = slice(int(sequence_ends[start] - count[start]), int(sequence_ends[end - 1]))
            logits = context.decode(token[part], position[part], sequence[owners], output[part], count[part])
            yield row, logits
            start, row = end, int(row_ends[end - 1])

    # generation ------------------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Generation]:
        if not requests:
            return []
        for request in requests:
            if not request.prompt or request.max_new_tokens < 1:
                raise InputError("a generation request needs at least one token of prompt and one to generate")
        longest = max(len(r.prompt) + r.max_new_tokens for r in requests)
        if longest > self.max_length:
            raise InputError(f"a generation of {longest} tokens is longer than the context of {self.max_length}")
        shared = _common_prefix([r.prompt for r in requests])
        if len(requests) == 1 or shared < MIN_SHARED:
            shared = 0
        per_slot = -(-longest // CELL_ALIGNMENT) * CELL_ALIGNMENT
        cell_bytes = self.model.cache_bytes_per_cell(self.options.type_k, self.options.type_v)
        affordable = self.options.cache_bytes // (per_slot * cell_bytes)
        n_slots = max(1, min(self.options.slots, len(requests), affordable))
        context = self._take_context(per_slot * n_slots, n_slots, unified=False)
        if shared:
            self._decode_shared(context, requests[0].prompt[:shared], n_slots)
        # prompts of like length together, so that slots which start together are prefilled in few, full ubatches
        waiting = deque(sorted(range(len(requests)), key=lambda i: len(requests[i].prompt), reverse=True))
        slots: list[_Slot] = []  # a slot's place is its sequence; no gaps, or llama.cpp splits a batch at each of them
        results: dict[int, Generation] = {}
        while slots or waiting:
            if waiting and (n_slots - len(slots)) * REFILL_SHARE >= n_slots:
                first = len(slots)
                for sequence in range(first, min(n_slots, first + len(waiting))):
                    kept = shared if context.remove(sequence, shared) else 0  # a recurrent state may have to go whole
                    if not kept:
                        context.remove(sequence)
                    index = waiting.popleft()
                    slots.append(_Slot(self.model, self.end_ids, index, requests[index], kept))
                self._decode_prompts(context, slots, first)
            else:
                self._decode_next(context, slots)
            for sequence in reversed([s for s, slot in enumerate(slots) if slot.ended]):
                results[slots[sequence].index] = slots[sequence].result()
                last = slots.pop()
                if sequence < len(slots):
                    context.copy_sequence(len(slots), sequence)
                    slots[sequence] = last
            if progress:
                progress(len(results), len(requests))
        self._sample_memory()
        return [results[i] for i in range(len(requests))]

    def _decode_shared(self, context: Context, prefix: tuple[int, ...], n_slots: int) -> None:
        """Compute what all prompts start with once and give it to every slot."""
        tokens = np.array(prefix, np.int32)
        for start in range(0, len(tokens), context.n_batch):
            part = tokens[start : start + context.n_batch]
            none = np.zeros(len(part), dtype=bool)
            context.decode(part, np.arange(start, start + len(part)), np.zeros(len(part), np.int32), none)
        for s in range(1, n_slots):
            context.copy_sequence(0, s)

    def _decode_prompts(self, context: Context, slots: list[_Slot], first: int) -> None:
        """Decode the prompts of slots[first:] in full batches; each slot then has its first token."""
        while any(slot.prompt for slot in slots[first:]):
            tokens: list[int] = []
            positions: list[int] = []
            sequences: list[int] = []
            outputs: list[bool] = []
            answering: list[_Slot] = []  # the slot of each row of logits
            for s in range(first, len(slots)):
                slot, room = slots[s], context.n_batch - len(tokens)
                part, slot.prompt = slot.prompt[:room], slot.prompt[room:]
                if not part:
                    continue
                tokens += part
                positions += range(slot.position, slot.position + len(part))
                sequences += [s] * len(part)
                outputs += [False] * (len(part) - 1) + [not slot.prompt]
                slot.position += len(part)
                if not slot.prompt:
                    answering.append(slot)
            logits = context.decode(np.array(tokens), np.array(positions), np.array(sequences), np.array(outputs))
            for slot, token in zip(answering, logits.argmax(axis=1).tolist(), strict=True):
                slot.accept(token)

    def _decode_next(self, context: Context, slots: list[_Slot]) -> None:
        """One more token of every slot."""
        tokens = np.array([slot.generated[-1] for slot in slots], np.int32)
        positions = np.array([slot.position for slot in slots], np.int32)
        n = len(slots)
        logits = context.decode(tokens, positions, np.arange(n, dtype=np.int32), np.ones(n, dtype=bool))
        for slot, token in zip(slots, logits.argmax(axis=1).tolist(), strict=True):
            slot.position += 1
            slot.accept(token)

    # speed -----------------------------------------------------------------------------------------------------------

    def time_prompt(self, n_tokens: int, n_ctx: int) -> float:
        context = self._take_context(max(n_tokens, n_ctx), 1, unified=False)
        tokens = np.random.default_rng(0).integers(0, self.n_vocab, n_tokens, dtype=np.int32)
        began = time.perf_counter()
        for start in range(0, n_tokens, context.n_batch):
            part = tokens[start : start + context.n_batch]
            last = np.arange(start, start + len(part)) == n_tokens - 1
            context.decode(part, np.arange(start, start + len(part)), np.zeros(len(part), np.int32), last)
        context.synchronize()
        seconds = time.perf_counter() - began
        self._sample_memory()
        return seconds

    def time_decode(self, n_tokens: int, n_ctx: int) -> float:
        context = self._take_context(max(n_tokens, n_ctx), 1, unified=False)
        tokens = np.random.default_rng(0).integers(0, self.n_vocab, n_tokens, dtype=np.int32)
        one, zero = np.ones(1, dtype=bool), np.zeros(1, np.int32)
        began = time.perf_counter()
        for i in range(n_tokens):
            context.decode(tokens[i : i + 1], np.array([i], np.int32), zero, one)
            context.synchronize()
        return time.perf_counter() - began


class _Slot:
    """One sequence that generates: what is left of its prompt, what it has given, and whether it has ended.

    Tokens of the prompt before `position` are in the cache already.
    """

    def __init__(
        self, model: Model, ends: frozenset[int], index: int, request: GenerationRequest, position: int
    ) -> None:
        self._model = model
        self._ends = ends
        self._request = request
        self._stops = tuple(stop.encode() for stop in request.stops if stop)
        self._reach = max((len(stop) for stop in self._stops), default=0)
        self._tail = b""
        self.index = index
        self.position = position
        self.prompt = list(request.prompt[position:])
        self.generated: list[int] = []
        self.ended = False

    def accept(self, token: int) -> None:
        """Append a generated token and see whether the generation ends with it."""
        self.generated.append(token)
        self.ended = token in self._ends or len(self.generated) == self._request.max_new_tokens
        if self._stops and not self.ended:
            # bytes, since a stop string or a character may be split over tokens; only the newest part can complete one
            self._tail = self._tail[-self._reach :] + self._model.piece(token, special=True)
            self.ended = any(stop in self._tail for stop in self._stops)

    def result(self) -> Generation:
        text = self._model.detokenize(self.generated)
        for stop in self._request.stops:
            if stop:
                text = text.split(stop)[0]
        return Generation(tuple(self.generated), text)


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Length of what all prompts start with, leaving each at least one token of its own."""
    low, high = min(prompts), max(prompts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(n, min(len(p) for p in prompts) - 1)
