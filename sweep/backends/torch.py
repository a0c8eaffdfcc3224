"""A Backend that runs a causal language model of transformers in this process. It measures the int8 variants.

Scoring (scoring.py) and generation (generation.py) are the same for every engine. Logits are computed in slices, and
only for the rows that are needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Cache,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from converters.errors import InputError
from int8.model import load_checkpoint
from int8.tokenizer import load_tokenizer
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
from sweep.backends.batch_limit import BatchLimit, Span, joined, out_of_memory_as_input_error
from sweep.backends.bfloat16_on_cpu import widen
from sweep.backends.device_memory import DeviceGrowth
from sweep.backends.embedding_store import StoredEncoder
from sweep.backends.image_options import ImageOptions
from sweep.backends.prompt_images import ImageEncoder, PromptImages, with_image_tokens
from sweep.backends.resident_memory import ResidentGrowth
from sweep.backends.torch_cache import CacheShape, Codecs
from sweep.backends.torch_engine import TorchEngine
from sweep.backends.torch_images import TorchImageEncoder
from sweep.backends.torch_vocabulary import TorchVocabulary
from sweep.backends.trie import PlanBudget, plan

WINDOW_TOKENS = 2048  # tokens of a text's windows per forward pass
LOGITS_BYTES = 128 << 20  # largest slice of logits
CPU_BATCH = 1024  # tokens scored together: with more, attention reads more cells; with fewer, cores are not busy
DEVICE_BATCH = 4096  # the same on a GPU
MAX_SEQUENCES = 256  # sequences that share cells: with more, attention reads more cells as well
STATE_CELLS = 4096  # cells for branches that are computed together: batches are cut by depth, and short ones cost most
MIN_SHARED_STATE = 4  # tokens; see PlanBudget.min_shared


@dataclass(frozen=True)
class TorchOptions:
    """Settings of the engine.

    Attributes:
        cache_bytes: limit for keys, values and states of all sequences together. A single request may need more.
        slots: largest number of sequences that have states or generate at the same time.
        n_batch: tokens of a forward pass; None: CPU_BATCH or DEVICE_BATCH, by the device.
    """

    cache_bytes: int = 1 << 30
    slots: int = 32
    n_batch: int | None = None


class TorchBackend:
    """See Backend.

    `model` is on its device, and `tokenizer` belongs to it. `growth` and `device_growth` measure memory since before
    loading. `codecs` encode the KV cache that sequences share; `new_cache` creates a cache with the same encoding for a
    single sequence. With `images`, prompts may have images; `model` must have a vision tower.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        growth: ResidentGrowth | None = None,
        device_growth: DeviceGrowth | None = None,
        load_seconds: float = 0.0,
        options: TorchOptions | None = None,
        codecs: Codecs = MappingProxyType({}),
        new_cache: Callable[[], Cache] | None = None,
        images: ImageOptions | None = None,
    ) -> None:
        self.options = options or TorchOptions()
        self._codecs = codecs
        self._new_cache = new_cache or partial(DynamicCache, config=model.config)
        self._model = model.eval()
        self._encoder = None if images is None else _encoder(model, images)
        self._vocabulary = vocabulary = TorchVocabulary(tokenizer)
        self._growth = growth
        self._device_growth = device_growth
        self.load_seconds = load_seconds
        self._device = model.device
        self._limit = BatchLimit(model.device)
        config = model.config.get_text_config()
        self.n_vocab: int = config.vocab_size
        self.max_length: int = config.max_position_embeddings
        self.end_ids = vocabulary.end_ids
        self.eos_id, self.bos_id, self.add_bos = vocabulary.eos_id, vocabulary.bos_id, vocabulary.add_bos
        self.prefix_id = self.bos_id if self.add_bos else self.eos_id
        self.chat_template = vocabulary.chat_template
        self.preprocessing = None if images is None else images.preprocessing

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        dtype: str = "bfloat16",
        device: str = "cpu",
        options: TorchOptions | None = None,
        images: ImageOptions | None = None,
    ) -> Self:
        """Load a checkpoint directory, with its vision tower if `images` is given.

        Raises InputError if transformers cannot load it.
        """
        growth = ResidentGrowth(sorted(path.glob("*.safetensors")))
        device_growth = DeviceGrowth() if torch.device(device).type == "cuda" else None
        began = time.perf_counter()
        tokenizer = load_tokenizer(path)
        model = on_device(load_checkpoint(path, dtype, images=images is not None), device)
        seconds = time.perf_counter() - began
        return cls(model, tokenizer, growth, device_growth, seconds, options, images=images)

    def close(self) -> None:
        """Release the weights."""
        del self._model

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        return self._vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self._vocabulary.detokenize(tokens, special=special)

    def memory(self) -> MemoryUse:
        """`allocated_bytes` is the peak that torch reserved on a GPU; on the CPU it is the size of the weights."""
        self._sample_memory()
        resident = self._growth.peak_bytes if self._growth is not None else 0
        if self._device.type == "cuda":
            grown = self._device_growth.peak_bytes if self._device_growth is not None else None
            return MemoryUse(torch.cuda.max_memory_reserved(self._device), resident, grown)
        return MemoryUse(_weight_bytes(self._model), resident)

    def _sample_memory(self) -> None:
        if self._growth is not None:
            self._growth.sample()
        if self._device_growth is not None:
            self._device_growth.sample()

    # windows ---------------------------------------------------------------------------------------------------------

    def windows(self, tokens: Tokens, first: int, *, parallel: int | None = None) -> Iterator[WindowLogits]:
        n_windows, n_ctx = tokens.shape
        if n_ctx > self.max_length:
            raise InputError(f"a context of {n_ctx} tokens is longer than the model's {self.max_length}")
        together = parallel or max(1, WINDOW_TOKENS // n_ctx)
        slice_rows = max(1, LOGITS_BYTES // (4 * self.n_vocab))
        for at in range(0, n_windows, together):
            hidden = self._hidden(tokens[at : at + together])
            for i, states in enumerate(hidden):
                for span in Span(first, n_ctx - 1).pieces(slice_rows):
                    yield WindowLogits(at + i, span.start, self._logits(states[span.slice]).numpy())

    @torch.inference_mode()
    def _hidden(self, tokens: NDArray[np.integer]) -> torch.Tensor:
        """The last layer's states (n, length, width) of tokens (n, length), which may be padded on the right."""
        ids = torch.from_numpy(np.ascontiguousarray(tokens, np.int64))

        def states(rows: Span) -> torch.Tensor:
            inputs = ids[rows.slice].to(self._device)
            found: torch.Tensor = self._model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
            return found

        return joined(self._limit.run(Span(0, len(ids), width=ids.shape[1]), states))

    @torch.inference_mode()
    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (n, n_vocab) of states (n, width), float32 on the CPU."""
        head = self._model.get_output_embeddings()
        return joined(self._limit.run(Span(0, len(states)), lambda rows: head(states[rows.slice]).float().cpu()))

    # log-likelihoods and generation ----------------------------------------------------------------------------------

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Progress | None = None) -> list[Score]:
        if not requests:
            return []
        requests, images = with_image_tokens(requests, self._encoder, self.max_length)
        longest = scoring.longest_request(requests, self.max_length)
        budget = self.score_budget(longest)
        engine = self._engine(budget.cells, budget.sequences, longest, budget.batch, images)
        scores = scoring.score(engine, plan(requests, budget), progress)
        self._sample_memory()
        return scores

    def score_budget(self, longest: int) -> PlanBudget:
        """The cells, sequences and batch for scoring requests of at most `longest` tokens within `cache_bytes`."""
        shape = self._cache_shape
        recurrent = shape.copies_states
        spare = max(0, self.options.cache_bytes - longest * shape.cell_bytes - shape.state_bytes)
        if recurrent:  # half of the memory for cells of branches, the rest for their states
            branches = min(STATE_CELLS, spare // 2 // shape.cell_bytes)
            states = 1 + (spare - branches * shape.cell_bytes) // shape.state_bytes
        else:
            branches = min(self._batch, spare // shape.cell_bytes)
        return PlanBudget(
            cells=longest + branches,
            sequences=min(states, self.options.slots) if recurrent else MAX_SEQUENCES,
            batch=self._batch,
            rows=self._batch,  # the engine computes logits in slices
            copies_states=recurrent,
            min_shared=MIN_SHARED_STATE if recurrent else 1,
        )

    def continuation_logits(self, requests: Sequence[ScoreRequest]) -> Iterator[NDArray[np.float32]]:
        if not requests:
            return
        requests, images = with_image_tokens(requests, self._encoder, self.max_length)
        longest = scoring.longest_request(requests, self.max_length)
        sequences = continuations.SEQUENCES
        engine = self._engine(sequences * longest, sequences, longest, self._batch, images)
        yield from continuations.continuation_logits(engine, requests)
        self._sample_memory()

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Generation]:
        if not requests:
            return []
        requests, images = with_image_tokens(requests, self._encoder, self.max_length)
        longest = generation.longest_request(requests, self.max_length)
        shape = self._cache_shape
        shared = generation.shared_prefix([request.prompt for request in requests])
        left = self.options.cache_bytes - shared * shape.cell_bytes
        affordable = left // ((longest - shared) * shape.cell_bytes + shape.state_bytes)
        # with a recurrent model the common prefix needs a sequence in addition to the slots
        n_slots = max(1, min(self.options.slots, len(requests), affordable - shape.copies_states))
        cells = shared + n_slots * (longest - shared)
        engine = self._engine(cells, n_slots + shape.copies_states, longest, self._batch, images)
        results = generation.generate(engine, self._vocabulary, requests, n_slots, self.end_ids, progress)
        self._sample_memory()
        return results

    def _engine(
        self, cells: int, sequences: int, longest: int, n_batch: int, images: PromptImages | None
    ) -> TorchEngine:
        with out_of_memory_as_input_error(
            self._device, f"a cache of {cells} tokens and {sequences} sequences does not fit"
        ):
            return TorchEngine(
                self._model,
                self._cache_shape,
                cells=cells,
                sequences=sequences,
                longest=longest,
                n_batch=n_batch,
                logits_bytes=LOGITS_BYTES,
                limit=self._limit,
                images=images,
            )

    @cached_property
    def _cache_shape(self) -> CacheShape:
        return CacheShape.of(self._model, self._codecs)

    @property
    def _batch(self) -> int:
        """Number of tokens that are computed together."""
        return self.options.n_batch or (CPU_BATCH if self._device.type == "cpu" else DEVICE_BATCH)

    # speed -----------------------------------------------------------------------------------------------------------

    def time_prompt(self, n_tokens: int, n_ctx: int, depth: int = 0) -> float:
        if depth:
            return self._time_prompt_at(depth, n_tokens)
        tokens = np.random.default_rng(0).integers(0, self.n_vocab, (1, n_tokens))
        began = time.perf_counter()
        self._logits(self._hidden(tokens)[0, -1:])
        return time.perf_counter() - began

    @torch.inference_mode()
    def time_decode(self, n_tokens: int, n_ctx: int, depth: int = 0) -> float:
        tokens = torch.from_numpy(np.random.default_rng(0).integers(0, self.n_vocab, (n_tokens, 1, 1)))
        cache = self._filled_cache(depth)
        began = time.perf_counter()
        for token in tokens.to(self._device):
            out = self._model(input_ids=token, past_key_values=cache, use_cache=True)
            out.logits.float().cpu()
        return time.perf_counter() - began

    @torch.inference_mode()
    def _time_prompt_at(self, depth: int, n_tokens: int) -> float:
        cache = self._filled_cache(depth)
        began = time.perf_counter()
        self._read(cache, depth, n_tokens)
        return time.perf_counter() - began

    def _filled_cache(self, depth: int) -> Cache:
        """A cache with `depth` random tokens. They are computed for each timing, because not every cache can go
        back."""
        cache = self._new_cache()
        if depth:
            self._read(cache, 0, depth)
        return cache

    def _read(self, cache: Cache, at: int, n_tokens: int) -> None:
        """Compute `n_tokens` random tokens in full batches, after the `at` tokens in the cache."""
        tokens = torch.from_numpy(np.random.default_rng(at).integers(0, self.n_vocab, (1, n_tokens)))
        for part in tokens.to(self._device).split(self._batch, dim=1):
            out = self._model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
            out.logits.float().cpu()


def _encoder(model: PreTrainedModel, images: ImageOptions) -> ImageEncoder:
    encoder = TorchImageEncoder(model, images.preprocessing)
    return encoder if images.store is None else StoredEncoder(encoder, images.store)


def on_device(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """The model, moved to `device`. Raises InputError if the device does not have enough memory for its weights."""
    size = f"{_weight_bytes(model) / 2**30:.1f} GiB"
    with out_of_memory_as_input_error(torch.device(device), f"the model's weights, {size}, do not fit"):
        model.to(device)
    widen(model)
    return model


def _weight_bytes(model: PreTrainedModel) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
