"""The Backend protocol: what measurements use of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from images.file import ImageFile
from images.preprocessing import Preprocessing

Tokens = NDArray[np.int32]
Progress = Callable[[int, int], None]  # number of items done, total number


@dataclass(frozen=True)
class WindowLogits:
    """Rows of logits of one window: row i predicts the token at position `start` + i + 1.

    `logits` is float32 (n, n_vocab) and is valid until the iterator gives the next part.
    """

    window: int
    start: int
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class PlacedImage:
    """An image in a prompt: it stands before token `at` of the prompt, or after the last one.

    A prompt is a sequence of tokens and images, so no text in it can be mistaken for an image. Its tokens include those
    around an image, such as Qwen's `<|vision_start|>` and `<|vision_end|>`, but not those in place of it.
    """

    image: ImageFile
    at: int


@final
@dataclass(frozen=True)
class ScoreRequest:
    """Asks for the log-likelihood of `continuation` after `context`; both have at least one token.

    `images` stand in the context, in order.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    images: tuple[PlacedImage, ...] = ()


@dataclass(frozen=True)
class Score:
    """The sum of the continuation's log-probabilities in nats, and whether greedy decoding would generate it."""

    logprob: float
    is_greedy: bool


@final
@dataclass(frozen=True)
class GenerationRequest:
    """Asks for greedy decoding after `prompt` until an end token, a string of `stops`, or `max_new_tokens` tokens.

    `images` stand in the prompt, in order.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    images: tuple[PlacedImage, ...] = ()


@dataclass(frozen=True)
class Generation:
    """A generated text. `text` ends before the first stop string and has no special tokens; `tokens` are all tokens."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class MemoryUse:
    """The memory of a loaded model in bytes.

    Attributes:
        allocated_bytes: the peak of what the engine says it allocated.
        resident_bytes: growth of the process in RAM, at its peak.
        device_bytes: growth of the process on all GPUs; 0 if the model is on no GPU, None if the driver gives no figure
            per process.
    """

    allocated_bytes: int
    resident_bytes: int
    device_bytes: int | None = 0

    @property
    def measured_bytes(self) -> int | None:
        """Growth of the process in GPU memory if the model is on a GPU, otherwise in RAM; None if unknown."""
        return self.resident_bytes if self.device_bytes == 0 else self.device_bytes


class Backend(Protocol):
    """A loaded causal language model.

    Attributes:
        load_seconds: time of loading the model.
        n_vocab: size of the vocabulary.
        max_length: the longest context in tokens.
        eos_id: the tokenizer's end-of-text token.
        bos_id: the tokenizer's beginning-of-text token.
        prefix_id: the token before a text without context: BOS if the model adds BOS, otherwise EOS.
        add_bos: whether the tokenizer adds BOS at the beginning of a text.
        end_ids: tokens that end a generation.
        chat_template: the model's chat template in Jinja; None if it has none.
        preprocessing: the settings of its image processor; None if it takes no images.
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
    preprocessing: Preprocessing | None

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens: ...

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str: ...

    def windows(self, tokens: Tokens, first: int, *, parallel: int | None = None) -> Iterator[WindowLogits]:
        """Decode windows `tokens` int32 (n_windows, n_ctx) and yield the rows of positions first .. n_ctx - 2 of each.

        A window may come in several parts, in order. `parallel` is the number of windows per batch (None: as many as
        fit). Raises InputError if n_ctx is longer than the model's context.
        """
        ...

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Progress | None = None) -> list[Score]:
        """Scores in the order of `requests`.

        Raises InputError for an empty request, one longer than the context, or images that the model cannot take.
        """
        ...

    def continuation_logits(self, requests: Sequence[ScoreRequest]) -> Iterator[NDArray[np.float32]]:
        """For each request the logits of its continuation: float32 (number of its tokens, n_vocab).

        Row i predicts token i. What a request has in common with the one before it is computed once. Raises InputError
        as `loglikelihoods` does.
        """
        ...

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Generation]:
        """Generations in the order of `requests`. Raises InputError as `loglikelihoods` does."""
        ...

    def time_prompt(self, n_tokens: int, n_ctx: int, depth: int = 0) -> float:
        """Seconds to process `n_tokens` of one sequence in full batches, in a context of `n_ctx` tokens or more.

        `depth` tokens come before them in the sequence; the time for those does not count."""
        ...

    def time_decode(self, n_tokens: int, n_ctx: int, depth: int = 0) -> float:
        """Seconds to decode `n_tokens` of one sequence one after another; see `time_prompt`."""
        ...

    def memory(self) -> MemoryUse: ...

    def close(self) -> None: ...
