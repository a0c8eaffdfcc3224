"""Perplexity by llama-perplexity's procedure. Source: llama.cpp, tools/perplexity.

The text is cut into windows of n_ctx tokens; tokens that do not fill a window are dropped. Each window is decoded with
an empty KV cache, and only its second half is scored: positions n_ctx/2 .. n_ctx-2 predict the token after them. With a
stride, each window begins that many tokens after the one before, and the last `stride` tokens of each window are
scored.

Log-probabilities are exact (float32 logits, float64 sums); nothing is clipped.
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
from sweep.measure.text_results import PerplexityResult
from sweep.statistics.stopping import random_order


@dataclass(frozen=True)
class Windows:
    """The windows of a text: `tokens` int32 (n_windows, n_ctx), scored at positions `first` .. n_ctx - 2.

    `heads` int32 (n_windows,) are the first tokens of the windows in the text, if a BOS token replaces them in
    `tokens`; otherwise None.
    """

    tokens: Tokens
    first: int
    heads: Tokens | None = None

    @property
    def rows_each(self) -> int:
        """Number of scored positions in a window."""
        return int(self.tokens.shape[1]) - 1 - self.first

    @property
    def text(self) -> Tokens:
        """The tokens of the text, int32 (n_windows, n_ctx), without BOS tokens."""
        if self.heads is None:
            return self.tokens
        return np.concatenate([self.heads[:, None], self.tokens[:, 1:]], axis=1)

    @cached_property
    def sha256(self) -> str:
        """Hash of the shape, the first scored position and the tokens. Equal hashes mean comparable measurements."""
        head = f"{self.tokens.shape[0]} {self.tokens.shape[1]} {self.first} ".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.tokens, "<i4").tobytes()).hexdigest()

    def head(self, n_windows: int) -> Windows:
        """The first `n_windows` windows."""
        return self.part(0, n_windows)

    def part(self, start: int, stop: int) -> Windows:
        """The windows `start` to `stop` - 1."""
        return self._picked(slice(start, stop))

    def in_random_order(self) -> Windows:
        """All windows in an order that only their content decides, so that it is the same for every model."""
        return self._picked(random_order(self.sha256, len(self.tokens)))

    def _picked(self, which: slice | NDArray[np.intp]) -> Windows:
        heads = None if self.heads is None else self.heads[which]
        return Windows(self.tokens[which], self.first, heads)


def cut_windows(
    backend: Backend,
    text: str,
    *,
    n_ctx: int = 512,
    stride: int | None = None,
    max_windows: int | None = None,
    parse_special: bool = False,
) -> Windows:
    """Tokenize `text` and cut it into windows of `n_ctx` tokens, at most `max_windows`; `stride` is in tokens.

    `parse_special`: whether special tokens in the text are read as such, or as plain text.

    Raises InputError if `n_ctx` or `stride` is out of range, or if the text has fewer tokens than two windows.
    """
    if n_ctx < 4:
        raise InputError(f"a perplexity window of {n_ctx} tokens is too short; choose at least 4")
    if stride is not None and not 1 <= stride < n_ctx:
        raise InputError(
            f"a stride of {stride} is not possible with windows of {n_ctx} tokens; choose 1 to {n_ctx - 1}"
        )
    if n_ctx > backend.max_length:
        raise InputError(
            f"a perplexity window of {n_ctx} tokens is longer than the model's context of {backend.max_length} tokens"
        )
    tokens = backend.tokenize(text, add_special=True, parse_special=parse_special)
    require_two_windows(len(tokens), n_ctx)
    return windows_of(tokens, n_ctx, stride, backend.bos_id if backend.add_bos else None, max_windows)


def windows_of(
    tokens: Tokens, n_ctx: int, stride: int | None = None, bos: int | None = None, max_windows: int | None = None
) -> Windows:
    """Cut the tokens of a text, int32 (n,), into windows. `bos` replaces the first token of each; None: it stays."""
    if stride is None:
        windows = tokens[: len(tokens) // n_ctx * n_ctx].reshape(-1, n_ctx)[:max_windows].copy()
        if bos is None:
            return Windows(windows, n_ctx // 2)
        heads = windows[:, 0].copy()
        windows[:, 0] = bos
        return Windows(windows, n_ctx // 2, heads)
    # llama-perplexity has this number of windows with a stride, and does not decode a BOS token at their beginning
    n_windows = -(-(len(tokens) - n_ctx) // stride)
    starts = np.arange(n_windows)[:max_windows] * stride
    return Windows(tokens[starts[:, None] + np.arange(n_ctx)], n_ctx - 1 - stride)


def require_two_windows(n_tokens: int, n_ctx: int) -> None:
    """Raise InputError if the text has fewer tokens than two windows, as llama-perplexity does."""
    if n_tokens < 2 * n_ctx:
        raise InputError(
            f"the perplexity text has {n_tokens} tokens; windows of {n_ctx} tokens need at least {2 * n_ctx}: "
            "give a longer text or a smaller --window"
        )


def summarize_nll(nll: NDArray[np.float64]) -> PerplexityResult:
    """Perplexity with its error and interval from negative log-likelihoods (n_windows, rows) in nats per token."""
    value, stderr = statistics.perplexity(nll.ravel())
    by_window = nll.mean(axis=1)
    low = high = None
    if len(by_window) > 1:
        low, high = statistics.bootstrap_interval(by_window, lambda picked: float(np.exp(picked.mean())))
    return PerplexityResult(value, stderr, nll.size, tuple(by_window.tolist()), low, high)
