"""Perplexity by llama-perplexity's procedure.

The text is cut into windows of n_ctx tokens (what is left over is dropped), each window starts anew, and only the
second half of each is scored: positions n_ctx/2 .. n_ctx-2 predict the token after them. Source: llama.cpp,
tools/perplexity. Log-probabilities are exact (float32 logits, float64 sums); nothing is clipped.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep import statistics
from sweep.backends.base import Backend, Tokens
from sweep.record import Perplexity


@dataclass(frozen=True)
class Windows:
    """What is decoded and scored: `tokens` int32 (n_windows, n_ctx); rows of positions `first` .. n_ctx - 2 count."""

    tokens: Tokens
    first: int

    @property
    def rows_each(self) -> int:
        """Scored positions of one window."""
        return int(self.tokens.shape[1]) - 1 - self.first

    @cached_property
    def sha256(self) -> str:
        """Of shape, first scored position and tokens: equal for measurements that may be compared."""
        head = f"{self.tokens.shape[0]} {self.tokens.shape[1]} {self.first} ".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.tokens, "<i4").tobytes()).hexdigest()

    def head(self, n_windows: int) -> Windows:
        return Windows(self.tokens[:n_windows], self.first)


@dataclass(frozen=True)
class PerplexityResult:
    """exp(mean NLL) over `tokens` scored positions, llama-perplexity's standard error, mean NLL (nats) by window."""

    value: float
    stderr: float
    tokens: int
    window_nll: tuple[float, ...]

    @property
    def record(self) -> Perplexity:
        return Perplexity(self.value, self.stderr, self.tokens)


def cut_windows(backend: Backend, text: str, *, n_ctx: int = 512, max_windows: int | None = None) -> Windows:
    """Tokenize `text` and cut it. Raises InputError where it gives fewer than two windows."""
    if n_ctx < 4:
        raise InputError(f"a perplexity window of {n_ctx} tokens scores nothing; choose at least 4")
    if n_ctx > backend.max_length:
        raise InputError(f"a perplexity window of {n_ctx} tokens is longer than the model's {backend.max_length}")
    tokens = backend.tokenize(text, add_special=True)
    if len(tokens) < 2 * n_ctx:
        raise InputError(
            f"the perplexity text has {len(tokens)} tokens; windows of {n_ctx} need at least {2 * n_ctx}: "
            "give a longer text or a smaller context"
        )
    n_windows = len(tokens) // n_ctx
    if max_windows is not None:
        n_windows = min(n_windows, max_windows)
    windows = tokens[: n_windows * n_ctx].reshape(n_windows, n_ctx).copy()
    if backend.add_bos:
        windows[:, 0] = backend.bos_id
    return Windows(windows, n_ctx // 2)


def summarize_nll(nll: NDArray[np.float64]) -> PerplexityResult:
    """From negative log-likelihoods (n_windows, rows) in nats."""
    value, stderr = statistics.perplexity(nll.ravel())
    return PerplexityResult(value, stderr, nll.size, tuple(nll.mean(axis=1).tolist()))
