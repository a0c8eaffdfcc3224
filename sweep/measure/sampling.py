"""A distribution over a large vocabulary in few bytes: its HEAD exactly, and TAIL draws from the rest.

The draws are with replacement, each with a chance in proportion to the token's probability, so that a mean over them
estimates the tail's part of a KL divergence without bias (see divergence.py). 1,280 tokens of 151,936 take a thirtieth
of the bytes of llama.cpp's base file.
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
        ("target_logprob", "<f8"),  # of the token that follows in the text
    ]
)
GROUP = 16  # tokens of a group; a draw finds its group first, then its token


def sample_rows(
    logits: NDArray[np.float32],
    normalizers: NDArray[np.float64],
    targets: NDArray[np.integer],
    chances: NDArray[np.float64],
) -> NDArray[np.void]:
    """Head and tail of n distributions as SAMPLED_ROW (n,).

    `logits` (n, n_vocab) with log-normalizers (n,), `targets` (n,) the tokens that follow, `chances` (n, TAIL) uniform
    on [0, 1), from which the draws are made. n_vocab must be above HEAD.
    """
    n, n_vocab = logits.shape
    rows = np.zeros(n, SAMPLED_ROW)
    groups = -(-n_vocab // GROUP)
    weights = np.zeros((GROUP, groups), np.float32)  # token t is column t % groups: sums then run along memory
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
            tail = _draw(weights, cumulative, chances[i] * mass)
            row["tail_tokens"], row["tail_logprobs"] = tail, logit[tail] - z
    return rows


def _most_probable(logit: NDArray[np.float32], groups: int) -> NDArray[np.intp]:
    """The HEAD tokens of the largest logits, largest first, ties by token, as argmax breaks them."""
    n_vocab = len(logit)
    whole = n_vocab // groups * groups
    if groups >= 2 * HEAD:
        # HEAD groups have a largest value of at least this, so HEAD tokens have: few more are left to sort
        largest = logit[:whole].reshape(-1, groups).max(axis=0)
        bound = np.partition(largest, groups - HEAD)[groups - HEAD]
    else:
        bound = np.partition(logit, n_vocab - HEAD)[n_vocab - HEAD]
    found = np.flatnonzero(logit >= bound)
    order = np.argsort(-logit[found], kind="stable")  # `found` ascends, so equal ones stay in the order of tokens
    return found[order[:HEAD]]


def _draw(weights: NDArray[np.float32], cumulative: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.intp]:
    """Tokens at the places `at` of the cumulative weights: the column by `cumulative`, the row within it."""
    at = np.minimum(at, np.nextafter(cumulative[-1], 0.0))  # a chance just under 1 may have been rounded up
    column = np.searchsorted(cumulative, at, side="right")
    inside = np.cumsum(weights[:, column], axis=0, dtype=np.float64)
    rest = at - (cumulative[column] - inside[-1])
    # rounding may leave `rest` at either end of the column's weights; a token of weight 0 is never taken
    rest = np.clip(rest, 0.0, np.nextafter(inside[-1], 0.0))
    row = (inside <= rest).sum(axis=0)
    token: NDArray[np.intp] = row * weights.shape[1] + column
    return token
