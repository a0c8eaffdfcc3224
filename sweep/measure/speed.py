"""Measures tokens per second as llama-bench does with pp512 (reading a prompt) and tg128 (decoding one sequence)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from sweep.backends.base import Backend

PROMPT_TOKENS, DECODE_TOKENS = 512, 128


@dataclass(frozen=True)
class TokenRates:
    """Tokens per second: medians of several timings after a warm-up, with the tokens and timings of each kind."""

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
    """Time prompts and decoding in a context of `n_ctx` tokens.

    Prompts and decoding are each timed at least once and at most `repeats` times, for up to half of `seconds`: no
    repeat begins after that. The numbers of tokens are limited by the model's longest context.
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
