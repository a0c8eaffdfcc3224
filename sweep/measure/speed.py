"""Tokens per second, as llama-bench defines pp512 and tg128: a prompt in full batches, and one sequence decoded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from sweep.backends.base import Backend

PROMPT_TOKENS, DECODE_TOKENS = 512, 128


@dataclass(frozen=True)
class TokenRates:
    """Tokens a second: medians of `repeats` timings after one that does not count, and the tokens of each timing."""

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    prompt_tokens: int
    decode_tokens: int
    prompt_repeats: int
    decode_repeats: int


def measure_speed(
    backend: Backend,
    n_ctx: int,
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    decode_tokens: int = DECODE_TOKENS,
    repeats: int = 5,
    seconds: float = 10.0,
) -> TokenRates:
    """Time prompts and decoding in a context of `n_ctx` tokens. No repeat is begun once half of `seconds` is spent on
    its kind; one always counts.
    """
    n_prompt, n_decode = min(prompt_tokens, backend.max_length), min(decode_tokens, backend.max_length)
    prompt = _repeat(lambda: backend.time_prompt(n_prompt, n_ctx), repeats, seconds / 2)
    decode = _repeat(lambda: backend.time_decode(n_decode, n_ctx), repeats, seconds / 2)
    return TokenRates(
        n_prompt / statistics.median(prompt),
        n_decode / statistics.median(decode),
        n_prompt,
        n_decode,
        len(prompt),
        len(decode),
    )


def _repeat(timed: Callable[[], float], repeats: int, seconds: float) -> list[float]:
    end = time.monotonic() + seconds
    timed()  # warm-up: pages of the weights, buffers, clocks
    timings = [timed()]
    while len(timings) < repeats and time.monotonic() < end:
        timings.append(timed())
    return timings
