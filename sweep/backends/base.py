"""What a measurement may ask of a model: tokens in, log-probabilities and generated tokens out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class WindowLogits:
    """Rows of one window: row i predicts the token at position `start` + i + 1.

    `logits` is float32 (n, n_vocab), valid until the next part is asked for.
    """

    window: int
    start: int
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class ScoreRequest:
    """Log-likelihood wanted of `continuation` after `context`; both hold at least one token."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Sum of the continuation's log-probabilities (nats), and whether greedy decoding would have given it."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True)
class GenerationRequest:
    """Greedy decoding after `prompt` until an end token, a string of `stops`, or `max_new_tokens`."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """`text` ends before the first stop string and holds no special token; `tokens` are all that were decoded."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class MemoryUse:
    """Bytes: what the engine says it allocated (its peak), and by how much the process grew that holds the model.

    `resident_bytes` of the machine's memory; `device_bytes` of all GPUs, 0 where the model is on none, None where the
    driver does not tell them by process.
    """

    allocated_bytes: int
    resident_bytes: int
    device_bytes: int | None = 0

    @property
    def measured_bytes(self) -> int | None:
        """Growth where the model is placed: of the GPUs' memory where it is on any, else of the machine's."""
        return self.resident_bytes if self.device_bytes == 0 else self.device_bytes


class Backend(Protocol):
    """A loaded causal language model.

    `load_seconds` is how long loading took; `n_vocab` tokens; `max_length` is the longest context; `end_ids` end a
    generation; `eos_id` is the tokenizer's own end of text; `prefix_id` conditions a text that has no context (BOS
    where the model adds one, else EOS).
    """

    load_seconds: float
    n_vocab: int
    max_length: int
    eos_id: int
    bos_id: int
    prefix_id: int
    add_bos: bool
    end_ids: frozenset[int]
    chat_template: str | None

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens: ...

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str: ...

    def windows(self, tokens: Tokens, first: int, *, parallel: int | None = None) -> Iterator[WindowLogits]:
        """Decode windows `tokens` (n_windows, n_ctx) and give the rows of positions first .. n_ctx - 2 of each.

        A window may come in several parts, in order. `parallel` sets how many windows share a batch (default: as
        many as fit).
        """
        ...

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Progress | None = None) -> list[Score]:
        """Scores in the order of `requests`."""
        ...

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Generation]:
        """Generations in the order of `requests`."""
        ...

    def time_prompt(self, n_tokens: int, n_ctx: int) -> float:
        """Seconds taken to process `n_tokens` of one sequence in full batches, in a context of `n_ctx` tokens."""
        ...

    def time_decode(self, n_tokens: int, n_ctx: int) -> float:
        """Seconds taken to decode `n_tokens` of one sequence one after another, in a context of `n_ctx` tokens."""
        ...

    def memory(self) -> MemoryUse: ...

    def close(self) -> None: ...
