"""Measures tokens per second as llama-bench does with pp512 (reading a prompt) and tg128 (decoding one sequence), at
the beginning of a context or after other tokens (its option -d). Fewer tokens are timed if the model is slow."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from sweep.backends.base import Backend
from sweep.defaults import LEAST_PROMPT_TOKENS, SPEED_SECONDS

PROMPT_TOKENS, DECODE_TOKENS = 512, 128
WARM_UP_TOKENS = 8  # decoded before the first timing; llama-bench decodes one
LEAST_REPEATS, MOST_REPEATS = 3, 5  # the median of two timings is their mean, which one disturbance moves


@dataclass(frozen=True)
class TokenRates:
    """Tokens per second: medians of several timings after a warm-up, with the tokens and timings of each kind.

    - `prompt_runs` and `decode_runs` are the tokens per second of each timing, in order. Results of earlier versions
      do not have them.
    - `other_cores` is how many of the machine's `cores` (with hyper-threads) other programs used meanwhile, on average.
    - `shortened`: whether fewer tokens than usual were timed, because the model is slow.
    """

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    prompt_tokens: int
    decode_tokens: int
    prompt_repeats: int
    decode_repeats: int
    prompt_runs: tuple[float, ...] = ()
    decode_runs: tuple[float, ...] = ()
    other_cores: float | None = None
    cores: int | None = None
    shortened: bool = False


def measure_speed(
    backend: Backend,
    n_ctx: int,
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    decode_tokens: int = DECODE_TOKENS,
    repeats: int = MOST_REPEATS,
    seconds: float = SPEED_SECONDS,
    depth: int = 0,
) -> TokenRates:
    """Time prompts and decoding in a context of `n_ctx` tokens or more, after `depth` tokens.

    Prompts and decoding are each timed at least LEAST_REPEATS times and at most `repeats` times, for up to half of
    `seconds`: no further repeat begins after that. The numbers of tokens are limited by the model's longest context,
    and halved until LEAST_REPEATS timings take no longer than that, but not below LEAST_PROMPT_TOKENS and
    WARM_UP_TOKENS. What comes before a timing, warm-up and the tokens of the depth, is not limited.
    """
    room = backend.max_length - depth
    most_prompt, most_decode = min(prompt_tokens, room), min(decode_tokens, room)
    least_prompt, least_decode = min(LEAST_PROMPT_TOKENS, most_prompt), min(WARM_UP_TOKENS, most_decode)
    budget = seconds / 2

    def time_prompt(tokens: int) -> float:
        return backend.time_prompt(tokens, n_ctx, depth)

    def time_decode(tokens: int) -> float:
        return backend.time_decode(tokens, n_ctx, depth)

    others = _OtherPrograms()
    n_prompt, first = most_prompt, time_prompt(least_prompt)  # reads the weights' pages, makes buffers, raises clocks
    if _is_too_slow(n_prompt, first / least_prompt, budget):
        n_prompt = _affordable(most_prompt, least_prompt, time_prompt(least_prompt) / least_prompt, budget)
    if n_prompt > least_prompt:
        time_prompt(n_prompt)
    prompt = _repeat(lambda: time_prompt(n_prompt), repeats, budget)
    n_decode = _affordable(most_decode, least_decode, time_decode(least_decode) / least_decode, budget)
    decode = _repeat(lambda: time_decode(n_decode), repeats, budget)
    return TokenRates(
        n_prompt / statistics.median(prompt),
        n_decode / statistics.median(decode),
        n_prompt,
        n_decode,
        len(prompt),
        len(decode),
        tuple(n_prompt / timing for timing in prompt),
        tuple(n_decode / timing for timing in decode),
        others.mean_cores(),
        psutil.cpu_count(),
        n_prompt < most_prompt or n_decode < most_decode,
    )


def _affordable(most: int, least: int, token_seconds: float, budget: float) -> int:
    """The number of tokens per timing: `most`, halved until LEAST_REPEATS timings fit into `budget` seconds."""
    while most > least and _is_too_slow(most, token_seconds, budget):
        most = max(least, most // 2)
    return most


def _is_too_slow(tokens: int, token_seconds: float, budget: float) -> bool:
    return LEAST_REPEATS * tokens * token_seconds > budget


def _repeat(timed: Callable[[], float], repeats: int, seconds: float) -> list[float]:
    end = time.monotonic() + seconds
    timings: list[float] = []
    while len(timings) < repeats and (len(timings) < LEAST_REPEATS or time.monotonic() < end):
        timings.append(timed())
    return timings


class _OtherPrograms:
    """The cores that other programs use, on average since this object was made."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), _used_by_others()

    def mean_cores(self) -> float:
        elapsed = time.monotonic() - self._began
        return max(0.0, _used_by_others() - self._used) / elapsed if elapsed else 0.0


def _used_by_others() -> float:
    """Seconds of all cores that anything but this process used since the system started. They include the time that
    other virtual machines took ("steal")."""
    spent = psutil.cpu_times()
    # the time of guests is counted as "user" too
    idle = spent.idle + sum(getattr(spent, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
    own = os.times()
    return float(sum(spent) - idle - own.user - own.system)
