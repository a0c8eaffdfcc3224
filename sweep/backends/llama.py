"""A Backend that runs llama.cpp in this process: the model, its contexts, windows of a text, and timing.

A context is reused until one of another shape is needed. Scoring (scoring.py) and generation (generation.py) are the
same for every engine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from converters.gguf_source import part_names
from converters.llamacpp.batch import make_batch
from converters.llamacpp.devices import gpus
from converters.llamacpp.load import ALL_IN_RAM, LoadOptions
from converters.llamacpp.model import Context, ContextOptions, Model
from sweep.backends import continuations, generation, scoring
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
from sweep.backends.device_memory import DeviceGrowth
from sweep.backends.embedding_store import StoredEncoder
from sweep.backends.image_options import ImageOptions
from sweep.backends.llama_engine import LlamaEngine
from sweep.backends.llama_images import ProjectorEncoder
from sweep.backends.prompt_images import ImageEncoder, with_image_tokens
from sweep.backends.resident_memory import ResidentGrowth
from sweep.backends.trie import PlanBudget, plan

MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ
CELL_ALIGNMENT = 256  # llama.cpp pads contexts to this many cells
CPU_BATCH = 256  # tokens scored together: with more, attention reads more cells; with fewer, cores are not busy
STATE_CELLS = 4096  # cells for branches that are computed together: batches are cut by depth, and short ones cost most
MIN_SHARED_STATE = 4  # tokens; see PlanBudget.min_shared
LOGITS_BYTES = 256 << 20  # largest size of the logits of a decode call


@dataclass(frozen=True)
class LlamaOptions:
    """Settings of the engine; the defaults are those of llama-perplexity.

    Attributes:
        n_ctx: longest context in tokens; None: the model's trained context.
        n_batch: tokens of a batch.
        n_ubatch: tokens of a micro-batch.
        type_k, type_v: types of the KV cache.
        flash_attn: "auto", "on" or "off".
        n_threads: threads of the CPU; None: llama.cpp's default.
        load: which layers are on which device.
        slots: largest number of sequences that generate at the same time.
        cache_bytes: limit for the KV cache and the recurrent states of all sequences. A single request may need more.
        images: how prompts with images are computed; None: the model takes none.
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
    images: ImageOptions | None = None


class LlamaBackend:
    """See Backend. Not thread safe; one context is alive at a time."""

    def __init__(self, path: str | Path, options: LlamaOptions | None = None) -> None:
        self.options = options or LlamaOptions()
        self._growth = ResidentGrowth([Path(path).with_name(name) for name in part_names(Path(path).name)])
        self._device_growth = DeviceGrowth() if self.options.load.gpu_layers != 0 and _has_gpu_memory() else None
        began = time.perf_counter()
        self.model = Model(path, self.options.load)
        self._tower = self._load_tower(self.options.images)
        self._encoder: ImageEncoder | None = self._tower
        if self._tower is not None and self.options.images is not None and self.options.images.store is not None:
            self._encoder = StoredEncoder(self._tower, self.options.images.store)
        self.load_seconds = time.perf_counter() - began
        self._context: Context | None = None
        self._depth = 0  # tokens in sequence 0 of the context, which timings at a depth come after
        self._cell_bytes = self.model.cache_bytes_per_cell(self.options.type_k, self.options.type_v)
        self._allocated_peak = self.model.allocated_bytes
        self.n_vocab = self.model.n_vocab
        self.max_length = min(self.options.n_ctx or self.model.n_ctx_train, self.model.n_ctx_train)
        self.add_bos = self.model.add_bos
        self.eos_id = self.model.eos_id
        self.bos_id = self.model.bos_id
        self.prefix_id = self.model.bos_id if self.model.add_bos else self.model.eos_id
        self.end_ids = self.model.eog_ids
        self.chat_template = self.model.chat_template
        self.preprocessing = None if self._tower is None else self._tower.preprocessing

    def _load_tower(self, images: ImageOptions | None) -> ProjectorEncoder | None:
        if images is None:
            return None
        try:
            if images.projector is None:
                raise InputError(f"{self.model.path}: a GGUF model takes images only with its projector file (mmproj)")
            return ProjectorEncoder(
                images.projector,
                self.model,
                images.preprocessing,
                flash_attn=self.options.flash_attn,
                n_threads=self.options.n_threads,
                use_gpu=self.options.load.gpu_layers != 0,
            )
        except InputError:
            self.model.close()
            raise

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None
        if self._tower is not None:
            self._tower.close()
        self.model.close()

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        return self.model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self.model.detokenize(tuple(tokens), special=special)

    def memory(self) -> MemoryUse:
        self._sample_memory()
        on_devices = 0 if self._device_growth is None else self._device_growth.peak_bytes
        return MemoryUse(self._allocated_peak, self._growth.peak_bytes, on_devices)

    def _sample_memory(self) -> None:
        self._growth.sample()
        if self._device_growth is not None:
            self._device_growth.sample()

    def _take_context(self, cells: int, sequences: int, *, unified: bool, n_batch: int | None = None) -> Context:
        """An empty context with at least `cells`; the current context if it suffices."""
        self._depth = 0
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
        if self._context is not None:
            current = self._context.options
            # free cells of a unified cache cost no time, so a larger one can be used as well
            enough = unified and current.n_ctx >= options.n_ctx
            if current == (replace(options, n_ctx=current.n_ctx) if enough else options):
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
        """Batches are those of llama-perplexity: n_batch // n_ctx windows, each a sequence with its own cells."""
        n_windows, n_ctx = tokens.shape
        if n_ctx > self.model.n_ctx_train:
            raise InputError(
                f"{self.model.path}: a context of {n_ctx} tokens is longer than the model's {self.model.n_ctx_train}"
            )
        together = parallel or max(1, self.options.n_batch // n_ctx)
        n_batch = min(self.options.n_batch, together * n_ctx)
        context = self._take_context(together * n_ctx, together, unified=False, n_batch=n_batch)
        outputs = np.zeros(n_ctx, dtype=bool)
        outputs[first : n_ctx - 1] = True
        positions = np.arange(n_ctx, dtype=np.int32)
        for at in range(0, n_windows, together):
            group = tokens[at : at + together]
            context.clear()
            if group.size > n_batch:  # a window longer than a batch is decoded alone (`together` is 1), in parts
                yield from self._long_window(context, at, group[0], outputs)
                continue
            n = len(group)
            logits = context.decode(
                group.ravel(),
                np.tile(positions, n),
                np.repeat(np.arange(n, dtype=np.int32), n_ctx),
                np.tile(outputs, n),
            )
            rows = n_ctx - 1 - first
            for i in range(n):
                yield WindowLogits(at + i, first, logits[i * rows : (i + 1) * rows])
        self._sample_memory()

    def _long_window(
        self, context: Context, window: int, tokens: Tokens, outputs: NDArray[np.bool_]
    ) -> Iterator[WindowLogits]:
        for start in range(0, len(tokens), context.n_batch):
            part = slice(start, start + context.n_batch)
            n = len(tokens[part])
            logits = context.decode(
                tokens[part], np.arange(start, start + n, dtype=np.int32), np.zeros(n, np.int32), outputs[part]
            )
            if len(logits):
                yield WindowLogits(window, start + int(np.argmax(outputs[part])), logits)

    # log-likelihoods and generation ----------------------------------------------------------------------------------

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Progress | None = None) -> list[Score]:
        if not requests:
            return []
        requests, images = with_image_tokens(requests, self._encoder, self.max_length)
        longest = scoring.longest_request(requests, self.max_length)
        budget = self.score_budget(longest)
        context = self._take_context(budget.cells, budget.sequences, unified=True)
        scores = scoring.score(LlamaEngine(context, images, longest), plan(requests, budget), progress)
        self._sample_memory()
        return scores

    def continuation_logits(self, requests: Sequence[ScoreRequest]) -> Iterator[NDArray[np.float32]]:
        if not requests:
            return
        requests, images = with_image_tokens(requests, self._encoder, self.max_length)
        longest = scoring.longest_request(requests, self.max_length)
        context = self._take_context(continuations.SEQUENCES * longest, continuations.SEQUENCES, unified=True)
        yield from continuations.continuation_logits(LlamaEngine(context, images, longest), requests)
        self._sample_memory()

    def score_budget(self, longest: int) -> PlanBudget:
        """The cells, sequences and batch for scoring requests of at most `longest` tokens within `cache_bytes`."""
        recurrent = self.model.is_recurrent
        on_gpu = self.options.load.gpu_layers != 0
        batch = self.options.n_batch if recurrent or on_gpu else min(CPU_BATCH, self.options.n_batch)
        affordable = self.options.cache_bytes // self._cell_bytes
        cells = max(longest, min(longest + (STATE_CELLS if recurrent else batch), affordable))
        sequences = self._affordable_states(cells) if recurrent else MAX_SEQUENCES
        return PlanBudget(
            cells=-(-cells // CELL_ALIGNMENT) * CELL_ALIGNMENT,
            sequences=min(sequences, self.options.n_batch),  # llama.cpp's contexts cannot have more
            batch=batch,
            rows=max(1, LOGITS_BYTES // (4 * self.n_vocab)),
            copies_states=recurrent,
            min_shared=MIN_SHARED_STATE if recurrent else 1,
        )

    def _affordable_states(self, cells: int) -> int:
        """Number of sequences whose states fit into `cache_bytes` in addition to `cells`."""
        left = self.options.cache_bytes - cells * self._cell_bytes
        return max(1, min(self.options.slots, left // max(1, self.model.state_bytes)))

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Generation]:
        if not requests:
            return []
        requests, images = with_image_tokens(requests, self._encoder, self.max_length)
        longest = generation.longest_request(requests, self.max_length)
        per_slot = -(-longest // CELL_ALIGNMENT) * CELL_ALIGNMENT
        recurrent = self.model.is_recurrent
        affordable = self.options.cache_bytes // (per_slot * self._cell_bytes + self.model.state_bytes)
        # with a recurrent model the common prefix needs a sequence in addition to the slots
        n_slots = max(
            1, min(self.options.slots, len(requests), affordable - recurrent, self.options.n_batch - recurrent)
        )
        sequences = n_slots + recurrent
        context = self._take_context(per_slot * sequences, sequences, unified=False)
        engine = LlamaEngine(context, images, longest)
        results = generation.generate(engine, self.model, requests, n_slots, self.end_ids, progress)
        self._sample_memory()
        return results

    # speed -----------------------------------------------------------------------------------------------------------

    def time_prompt(self, n_tokens: int, n_ctx: int, depth: int = 0) -> float:
        context, sequence = self._at_depth(n_tokens, n_ctx, depth)
        began = time.perf_counter()
        self._read(context, n_tokens, sequence, depth)
        seconds = time.perf_counter() - began
        self._sample_memory()
        return seconds

    def time_decode(self, n_tokens: int, n_ctx: int, depth: int = 0) -> float:
        context, sequence = self._at_depth(n_tokens, n_ctx, depth)
        tokens = np.random.default_rng(0).integers(0, self.n_vocab, n_tokens, dtype=np.int32)
        one, own = np.ones(1, dtype=bool), np.full(1, sequence, np.int32)
        batches = [make_batch(tokens[i : i + 1], np.array([depth + i], np.int32), own, one) for i in range(n_tokens)]
        began = time.perf_counter()
        for batch in batches:
            context.run(batch)
            context.synchronize()
        seconds = time.perf_counter() - began
        self._sample_memory()
        return seconds

    def _read(self, context: Context, n_tokens: int, sequence: int, at: int) -> None:
        """Decode random tokens in full batches, from position `at` of the sequence on."""
        tokens = np.random.default_rng(at).integers(0, self.n_vocab, n_tokens, dtype=np.int32)
        for start in range(0, n_tokens, context.n_batch):
            part = tokens[start : start + context.n_batch]
            positions = np.arange(at + start, at + start + len(part), dtype=np.int32)
            last = positions == at + n_tokens - 1
            context.decode(part, positions, np.full(len(part), sequence, np.int32), last)
        context.synchronize()

    def _at_depth(self, n_tokens: int, n_ctx: int, depth: int) -> tuple[Context, int]:
        """A context with room for `n_tokens` more tokens in one of its sequences, which has `depth` tokens, and the
        number of the sequence. The tokens are computed only once for several calls with the same depth.

        A recurrent state cannot go back, so the tokens after the depth are in a copy of the sequence.
        """
        cells, recurrent = max(n_ctx, depth + n_tokens), self.model.is_recurrent
        if not depth:
            return self._take_context(cells, 1, unified=False), 0
        if self._context is None or self._depth != depth or self._context.options.n_ctx < cells:
            self._read(self._take_context(cells, 1 + recurrent, unified=recurrent), depth, 0, 0)
            self._depth = depth
        assert self._context is not None
        if recurrent:
            self._context.remove(1, 0)
            self._context.copy_sequence(0, 1, None)
        else:
            self._context.remove(0, depth)
        return self._context, int(recurrent)


def _has_gpu_memory() -> bool:
    """Whether this build can use a GPU with its own memory; integrated GPUs and Apple's use RAM."""
    return sys.platform != "darwin" and any(device.kind == "gpu" for device in gpus())
