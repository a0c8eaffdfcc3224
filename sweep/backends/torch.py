"""A Backend over a causal language model of transformers in this process: what the int8 path is measured through.

Rows are padded on the right where logits are read (later tokens do not reach earlier ones) and on the left where text
is generated, as lm-eval's Hugging Face model does. Logits are made for the rows that are asked for alone, in slices.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from converters.errors import InputError
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
from sweep.backends.resident import ResidentGrowth

BATCH_TOKENS = 2048  # padded tokens of a forward pass
LOGITS_BYTES = 256 << 20  # logits are made in slices of no more
SLOTS = 32  # sequences that generate at once
END_TOKENS = ("<|im_end|>", "<|endoftext|>")  # Qwen's; llama.cpp ends at either, whatever a config says


class TorchBackend:
    """See Backend. `model` is in evaluation mode on its device; `tokenizer` belongs to it."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        growth: ResidentGrowth | None = None,
        load_seconds: float = 0.0,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._growth = growth
        self.load_seconds = load_seconds
        self._device = model.device
        config = model.config.get_text_config()
        self.n_vocab: int = config.vocab_size
        self.max_length: int = config.max_position_embeddings
        known = tokenizer.get_vocab()
        self.end_ids = frozenset(known[name] for name in END_TOKENS if name in known) | {tokenizer.eos_token_id}
        self.eos_id: int = tokenizer.eos_token_id
        self.bos_id: int = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else self.eos_id
        self.add_bos: bool = bool(getattr(tokenizer, "add_bos_token", False))
        self.prefix_id = self.bos_id if self.add_bos else self.eos_id
        self.chat_template: str | None = tokenizer.chat_template

    @classmethod
    def open(cls, path: Path, *, dtype: str = "bfloat16", device: str = "cpu") -> Self:
        """Load a checkpoint directory. Raises InputError where transformers cannot."""
        growth = ResidentGrowth(sorted(path.glob("*.safetensors")))
        began = time.perf_counter()
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype), trust_remote_code=False, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # whatever transformers says of a bad directory
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{path}: transformers cannot load it: {reason}") from error
        return cls(model.to(device), tokenizer, growth, time.perf_counter() - began)

    def close(self) -> None:
        """Let go of the weights."""
        del self._model

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        ids = self._tokenizer(text, add_special_tokens=add_special, split_special_tokens=not parse_special)["input_ids"]
        return np.asarray(ids, np.int32)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return str(
            self._tokenizer.decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def memory(self) -> MemoryUse:
        """On a GPU, what torch reserved there at its peak; resident memory grew by what the process holds."""
        if self._growth is not None:
            self._growth.sample()
        resident = self._growth.peak_bytes if self._growth is not None else 0
        if self._device.type == "cuda":
            return MemoryUse(torch.cuda.max_memory_reserved(self._device), resident)
        weights = sum(tensor.nbytes for tensor in [*self._model.parameters(), *self._model.buffers()])
        return MemoryUse(weights, resident)

    # windows ---------------------------------------------------------------------------------------------------------

    def windows(self, tokens: Tokens, first: int, *, parallel: int | None = None) -> Iterator[WindowLogits]:
        n_windows, n_ctx = tokens.shape
        if n_ctx > self.max_length:
            raise InputError(f"a context of {n_ctx} is beyond the model's {self.max_length}")
        together = parallel or max(1, BATCH_TOKENS // n_ctx)
        slice_rows = max(1, LOGITS_BYTES // (4 * self.n_vocab))
        for at in range(0, n_windows, together):
            hidden = self._hidden(tokens[at : at + together])
            for i, states in enumerate(hidden):
                for start in range(first, n_ctx - 1, slice_rows):
                    end = min(start + slice_rows, n_ctx - 1)
                    yield WindowLogits(at + i, start, self._logits(states[start:end]).numpy())

    @torch.inference_mode()
    def _hidden(self, tokens: NDArray[np.integer]) -> torch.Tensor:
        """The last layer's states (n, length, width) of rows of tokens that are padded on the right, if at all."""
        ids = torch.from_numpy(np.ascontiguousarray(tokens, np.int64)).to(self._device)
        states: torch.Tensor = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    @torch.inference_mode()
    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """float32 on the CPU."""
        head = self._model.get_output_embeddings()
        return head(states).float().cpu()

    # log-likelihoods -------------------------------------------------------------------------------------------------

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Progress | None = None) -> list[Score]:
        for request in requests:
            if not request.context or not request.continuation:
                raise InputError("a log-likelihood request needs at least one token of context and one of continuation")
        rows: dict[tuple[int, ...], list[int]] = {}  # what goes in -> the requests that read from it
        for index, request in enumerate(requests):
            rows.setdefault(request.context + request.continuation[:-1], []).append(index)
        longest = max(map(len, rows), default=0)
        if longest > self.max_length:
            raise InputError(f"a request of {longest} tokens is longer than the context of {self.max_length}")
        scores: list[Score | None] = [None] * len(requests)
        done = 0
        for group in _batches(sorted(rows, key=len, reverse=True)):
            for row, states in zip(group, self._hidden(_padded(group)), strict=True):
                for index in rows[row]:
                    scores[index] = self._score(states[: len(row)], requests[index].continuation)
                done += len(rows[row])
            if progress:
                progress(done, len(requests))
        return [score for score in scores if score is not None]

    def _score(self, states: torch.Tensor, continuation: tuple[int, ...]) -> Score:
        logits = self._logits(states[-len(continuation) :])
        wanted = torch.tensor(continuation)
        logprobs = logits.double().log_softmax(-1)[torch.arange(len(wanted)), wanted]
        return Score(float(logprobs.sum()), bool((logits.argmax(-1) == wanted).all()))

    # generation ------------------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Generation]:
        for request in requests:
            if not request.prompt or request.max_new_tokens < 1:
                raise InputError("a generation request needs at least one token of prompt and one to generate")
        longest = max((len(r.prompt) + r.max_new_tokens for r in requests), default=0)
        if longest > self.max_length:
            raise InputError(f"a generation of {longest} tokens is longer than the context of {self.max_length}")
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt), reverse=True)
        results: dict[int, Generation] = {}
        for at in range(0, len(order), SLOTS):
            group = order[at : at + SLOTS]
            tokens = self._generated([requests[i] for i in group])
            results |= {i: self._generation(requests[i], own) for i, own in zip(group, tokens, strict=True)}
            if progress:
                progress(len(results), len(requests))
        return [results[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _generated(self, requests: Sequence[GenerationRequest]) -> list[list[int]]:
        length = max(len(request.prompt) for request in requests)
        ids = torch.full((len(requests), length), self.eos_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, length - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, length - len(request.prompt) :] = 1
        given: Any = self._model.generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=max(request.max_new_tokens for request in requests),
            eos_token_id=sorted(self.end_ids),
            pad_token_id=self.eos_id,
            stopping_criteria=StoppingCriteriaList([_Stops(self, requests, length)]),
        )
        return [row[length:].tolist() for row in given]

    def _generation(self, request: GenerationRequest, tokens: list[int]) -> Generation:
        tokens = tokens[: request.max_new_tokens]
        end = next((i + 1 for i, token in enumerate(tokens) if token in self.end_ids), len(tokens))
        tokens = tokens[:end]
        text = self.detokenize(tokens)
        for stop in request.stops:
            if stop:
                text = text.split(stop)[0]
        return Generation(tuple(tokens), text)

    # speed -----------------------------------------------------------------------------------------------------------

    def time_prompt(self, n_tokens: int, n_ctx: int) -> float:
        tokens = np.random.default_rng(0).integers(0, self.n_vocab, (1, n_tokens))
        began = time.perf_counter()
        self._logits(self._hidden(tokens)[0, -1:])
        return time.perf_counter() - began

    @torch.inference_mode()
    def time_decode(self, n_tokens: int, n_ctx: int) -> float:
        tokens = torch.from_numpy(np.random.default_rng(0).integers(0, self.n_vocab, (n_tokens, 1, 1)))
        cache = None
        began = time.perf_counter()
        for token in tokens.to(self._device):
            out = self._model(input_ids=token, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            out.logits.float().cpu()
        return time.perf_counter() - began


class _Stops(StoppingCriteria):
    """A row is done when its text holds one of its stop strings, or has its number of tokens."""

    def __init__(self, backend: TorchBackend, requests: Sequence[GenerationRequest], start: int) -> None:
        self._backend, self._requests, self._start = backend, requests, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        rows = input_ids[:, self._start :].tolist()
        done = [self._done(request, row) for request, row in zip(self._requests, rows, strict=True)]
        return torch.tensor(done, device=input_ids.device)

    def _done(self, request: GenerationRequest, tokens: list[int]) -> bool:
        if len(tokens) >= request.max_new_tokens:
            return True
        reach = max((len(stop.encode()) for stop in request.stops), default=0)
        tail = self._backend.detokenize(tokens[-reach - 1 :], special=True) if reach else ""
        return any(stop in tail for stop in request.stops if stop)


def _batches(rows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Rows, longest first, as many at once as BATCH_TOKENS holds."""
    at = 0
    while at < len(rows):
        count = max(1, BATCH_TOKENS // len(rows[at]))
        yield list(rows[at : at + count])
        at += count


def _padded(rows: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    table = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
