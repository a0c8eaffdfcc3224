"""KL divergence of a variant from the reference, per scored position, in nats.

For distributions p (reference) and q (variant), KL(p || q) = sum p log(p/q) = sum (p log(p/q) - p + q), since both sum
to one. The second form is summed here: no term is negative, and rounding of p enters only in second order.

Where the reference holds a head H and K tokens t drawn from the tail with chance p_t / P, P the mass of the tail:

    KL = sum_H (p log(p/q) - p + q)  +  P * E[ log(p_t/q_t) - 1 + q_t/p_t ],   t ~ p_t / P

since E[q_t/p_t - 1] * P is the tail's sum of q - p. The mean over the K draws is therefore unbiased (importance
sampling with a control variate; Schulman, "Approximating KL Divergence", 2020, calls the term k3), and its variance is
P^2 Var(...) / K. A single position's value, and so the maximum and the high percentiles, carry that noise; means do not
drift with it.

Rows of llama.cpp's base file do not sum to one (it clips what is far below the largest), so for them the first form is
summed, over tokens with log p > -16, as llama-perplexity does: its figures, not the exact ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.measure.sampling import TAIL

Array = NDArray[np.float64]
BASE_FLOOR = -16.0  # log-probability from which on llama-perplexity counts a token of a base file
BLOCK = 1 << 16  # values of float64 that are worked on together, so that they stay in the cache


@dataclass(frozen=True)
class RowDivergence:
    """Of n positions: the divergence, the variance that tail sampling gave it, whether the top tokens agree; of the
    reference the log-probability of the token that follows, and its largest probability."""

    kld: Array
    variance: Array
    same_top: NDArray[np.bool_]
    target_logprob: Array
    confidence: Array


DivergenceOf = Callable[[NDArray, NDArray[np.float32], Array, NDArray[np.integer], NDArray[np.integer]], RowDivergence]
"""Divergence of logits (n, n_vocab) from a reference's rows of those positions: of the rows, the logits, their
log-normalizers, the variant's most probable tokens and the tokens that follow, (n,) each. One for each form of rows."""


def from_full(
    rows: NDArray[np.float32],
    logits: NDArray[np.float32],
    normalizers: Array,
    top: NDArray[np.integer],
    targets: NDArray[np.integer],
) -> RowDivergence:
    """Rows of log-probabilities, (n, n_vocab)."""
    n, n_vocab = logits.shape
    kld = np.empty(n)
    step = max(1, BLOCK // n_vocab)
    for start in range(0, n, step):
        here = slice(start, start + step)
        logp = rows[here].astype(np.float64)
        logq = logits[here] - normalizers[here, None]
        p = np.exp(logp)
        # where p is 0 only q is left of the term; a p that is no number stays one
        kld[here] = np.where(p == 0, np.exp(logq), p * _terms(logp, logq)).sum(axis=1)
    index, best = np.arange(n), rows.argmax(axis=1)
    return RowDivergence(
        kld, np.zeros(n), best == top, rows[index, targets].astype(np.float64), np.exp(rows[index, best].astype(float))
    )


def from_sampled(
    rows: NDArray,
    logits: NDArray[np.float32],
    normalizers: Array,
    top: NDArray[np.integer],
    _targets: NDArray[np.integer],
) -> RowDivergence:
    """Rows of `sampling.SAMPLED_ROW`, (n,)."""
    head = rows["head_logprobs"].astype(np.float64)
    head_q = np.take_along_axis(logits, rows["head_tokens"].astype(np.intp), axis=1) - normalizers[:, None]
    tail = rows["tail_logprobs"].astype(np.float64)
    tail_q = np.take_along_axis(logits, rows["tail_tokens"].astype(np.intp), axis=1) - normalizers[:, None]
    draws = _terms(tail, tail_q)
    mass = rows["tail_mass"]
    draws[mass == 0] = 0.0  # a tail without mass was not drawn from
    p = np.exp(head)
    return RowDivergence(
        (p * _terms(head, head_q)).sum(axis=1) + mass * draws.mean(axis=1),
        mass**2 * draws.var(axis=1, ddof=1) / TAIL,
        rows["head_tokens"][:, 0] == top,
        rows["target_logprob"],
        p[:, 0],
    )


def from_base(
    rows: NDArray,
    logits: NDArray[np.float32],
    _normalizers: Array,
    top: NDArray[np.integer],
    targets: NDArray[np.integer],
) -> RowDivergence:
    """Rows of `basefile.base_row`, (n,)."""
    n, n_vocab = logits.shape
    kld, confidence, target = np.empty(n), np.empty(n), np.empty(n)
    best = np.empty(n, np.intp)
    for i, (row, logit) in enumerate(zip(rows, logits, strict=True)):
        # rounded to float32 where llama-perplexity rounds: of a divergence next to nothing the rounding is printed
        largest = logit[top[i]]
        normalizer = largest + np.float32(np.log(np.exp(logit - largest).sum(dtype=np.float64)))
        steps = row["steps"][:n_vocab]
        logp = (np.float64(row["scale"]) * steps + np.float64(row["least"])).astype(np.float32)
        counted = np.flatnonzero(logp > BASE_FLOOR)
        few = logp[counted]
        p = np.exp(few)
        kld[i] = (p * (few - logit[counted] + normalizer)).sum(dtype=np.float64)
        best[i] = steps.argmax()
        confidence[i], target[i] = np.exp(np.float64(logp[best[i]])), logp[targets[i]]
    return RowDivergence(kld, np.zeros(n), best == top, target, confidence)


def _terms(logp: Array, logq: Array) -> Array:
    """log(p/q) - 1 + q/p, never negative; times p it is what is summed. -inf in both is no difference."""
    with np.errstate(invalid="ignore", over="ignore"):
        d = logq - logp
        return np.where(np.isneginf(logp), 0.0, np.expm1(d) - d)
