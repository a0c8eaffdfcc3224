"""Perplexity by llama-perplexity's procedure.

The text is cut into windows of n_ctx tokens (what is left over is dropped), each window starts anew, and only the
second half of each is scored: positions n_ctx/2 .. n_ctx-2 predict the token after them. With a stride, windows begin
that many tokens after one another instead, and the last `stride` tokens of each are scored. Source: llama.cpp,
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
from sweep.measure.results import PerplexityResult


@dataclass(frozen=True)
class Windows:
    """What is decoded and scored: `tokens` int32 (n_windows, n_ctx); rows of positions `first` .. n_ctx - 2 count.

    `heads` (n_windows,) are the text's own first tokens of the windows where a BOS has taken their places.
    """

    tokens: Tokens
    first: int
    heads: Tokens | None = None

    @property
    def rows_each(self) -> int:
        """Scored positions of one window."""
        return int(self.tokens.shape[1]) - 1 - self.first

    @property
    def text(self) -> Tokens:
        """The windows as the text has them, without BOS."""
        if self.heads is None:
            return self.tokens
        return np.concatenate([self.heads[:, None], self.tokens[:, 1:]], axis=1)

    @cached_property
    def sha256(self) -> str:
        """Of shape, first scored position and tokens: equal for measurements that may be compared."""
        head = f"{self.tokens.shape[0]} {self.tokens.shape[1]} {self.first} ".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.tokens, "<i4").tobytes()).hexdigest()

    def head(self, n_windows: int) -> Windows:
        heads = None if self.heads is None else self.heads[:n_windows]
        return Windows(self.tokens[:n_windows], self.first, heads)


def cut_windows(
    backend: Backend, text: str, *, n_ctx: int = 512, stride: int | None = None, max_windows: int | None = None
) -> Windows:
    """Tokenize `text` and cut it. Raises InputError where it gives fewer than two windows."""
    if n_ctx < 4:
        raise InputError(f"a perplexity window of {n_ctx} tokens scores nothing; choose at least 4")
    if stride is not None and not 1 <= stride < n_ctx:
        raise InputError(f"a stride of {stride} does not go with windows of {n_ctx} tokens; choose 1 to {n_ctx - 1}")
    if n_ctx > backend.max_length:
        raise InputError(f"a perplexity window of {n_ctx} tokens is longer than the model's {backend.max_length}")
    tokens = backend.tokenize(text, add_special=True)
    require_two_windows(len(tokens), n_ctx)
    if stride is None:
        windows = tokens[: len(tokens) // n_ctx * n_ctx].reshape(-1, n_ctx)[:max_windows].copy()
        if not backend.add_bos:
            return Windows(windows, n_ctx // 2)
        heads = windows[:, 0].copy()
        windows[:, 0] = backend.bos_id
        return Windows(windows, n_ctx // 2, heads)
    # llama-perplexity counts windows so, and does not begin them with BOS (it puts one in after decoding)
    n_windows = -(-(len(tokens) - n_ctx) // stride)
    starts = np.arange(n_windows)[:max_windows] * stride
    return Windows(tokens[starts[:, None] + np.arange(n_ctx)], n_ctx - 1 - stride)


def require_two_windows(n_tokens: int, n_ctx: int) -> None:
    """Raise InputError for a text of fewer tokens, as llama-perplexity does."""
    if n_tokens < 2 * n_ctx:
        raise InputError(
            f"the perplexity text has {n_tokens} tokens; windows of {n_ctx} need at least {2 * n_ctx}: "
            "give a longer text or a smaller --window"
        )


def summarize_nll(nll: NDArray[np.float64]) -> PerplexityResult:
    """From negative log-likelihoods (n_windows, rows) in nats."""
    value, stderr = statistics.perplexity(nll.ravel())
    by_window = nll.mean(axis=1)
    low = high = None
    if len(by_window) > 1:
        low, high = statistics.bootstrap_interval(by_window, lambda picked: float(np.exp(picked.mean())))
    return PerplexityResult(value, stderr, nll.size, tuple(by_window.tolist()), low, high)
