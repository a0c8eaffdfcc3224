"""Stores a distribution over a large vocabulary in few bytes: the HEAD most probable tokens, and TAIL draws from the
rest.

The draws are with replacement, and each token's probability of being drawn is proportional to its own probability. A
mean over the draws therefore estimates the tail's part of a KL divergence without bias (see divergence.py). 1,280 of
151,936 tokens take one thirtieth of the bytes of llama.cpp's base file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEAD, TAIL = 1024, 256
SAMPLED_ROW = np.dtype(
    [
        ("head_tokens", "<u4", HEAD),  # most probable first
        ("head_logprobs", "<f4", HEAD),
        ("tail_tokens", "<u4", TAIL),
        ("tail_logprobs", "<f4", TAIL),
        ("tail_mass", "<f8"),
        ("target_logprob", "<f8"),  # of the next token of the text
    ]
)
GROUP = 16  # tokens per group; a draw finds its group first, then its token


def sample_rows(
    logits: NDArray[np.float32],
    normalizers: NDArray[np.float64],
    targets: NDArray[np.integer],
    uniform: NDArray[np.float64],
) -> NDArray[np.void]:
    """Head and tail of n distributions as SAMPLED_ROW (n,).

    `logits` is float32 (n, n_vocab) with n_vocab > HEAD; `normalizers` float64 (n,) are their log sum exp; `targets`
    (n,) are the next tokens of the text; `uniform` float64 (n, TAIL) are random numbers in [0, 1) that decide the
    draws.
    """
    n, n_vocab = logits.shape
    rows = np.zeros(n, SAMPLED_ROW)
    groups = -(-n_vocab // GROUP)
    weights = np.zeros((GROUP, groups), np.float32)  # token t is in column t % groups: sums then read memory in order
    flat = weights.reshape(-1)[:n_vocab]
    for i, row in enumerate(rows):
        logit, z = logits[i], normalizers[i]
        head = _most_probable(logit, groups)
        row["head_tokens"], row["head_logprobs"] = head, logit[head] - z
        row["target_logprob"] = logit[targets[i]] - z
        np.subtract(logit, np.float32(z), out=flat)
        np.exp(flat, out=flat)
        flat[head] = 0.0
        cumulative = np.cumsum(weights.sum(axis=0), dtype=np.float64)
        row["tail_mass"] = mass = cumulative[-1]
        if mass > 0:
            tail = _draw(weights, cumulative, uniform[i] * mass)
            row["tail_tokens"], row["tail_logprobs"] = tail, logit[tail] - z
    return rows


def _most_probable(logit: NDArray[np.float32], groups: int) -> NDArray[np.intp]:
    """The HEAD tokens with the largest logits, in descending order; ties are in the order of tokens, as in argmax."""
    n_vocab = len(logit)
    whole = n_vocab // groups * groups
    if groups >= 2 * HEAD:
        # HEAD groups have a maximum of at least this bound, so at least HEAD tokens reach it: few more have to be
        # sorted
        largest = logit[:whole].reshape(-1, groups).max(axis=0)
        bound = np.partition(largest, groups - HEAD)[groups - HEAD]
    else:
        bound = np.partition(logit, n_vocab - HEAD)[n_vocab - HEAD]
    found = np.flatnonzero(logit >= bound)
    order = np.argsort(
        -logit[found], kind="stable"
    )  # `found` is ascending, so equal logits stay in the order of tokens
    return found[order[:HEAD]]


def _draw(weights: NDArray[np.float32], cumulative: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.intp]:
    """Tokens at the positions `at` (TAIL,) of the cumulative weights: `cumulative` gives the column, then the row."""
    at = np.minimum(at, np.nextafter(cumulative[-1], 0.0))  # a random number just below 1 may have been rounded up
    column = np.searchsorted(cumulative, at, side="right")
    inside = np.cumsum(weights[:, column], axis=0, dtype=np.float64)
    rest = at - (cumulative[column] - inside[-1])
    # rounding can put `rest` outside the column's weights; a token of weight 0 is never drawn
    rest = np.clip(rest, 0.0, np.nextafter(inside[-1], 0.0))
    row = (inside <= rest).sum(axis=0)
    token: NDArray[np.intp] = row * weights.shape[1] + column
    return token
