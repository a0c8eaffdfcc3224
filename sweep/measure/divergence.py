"""KL divergence of a variant from the reference, per scored position, in nats.

For distributions p (reference) and q (variant), KL(p || q) = sum p log(p/q) = sum (p log(p/q) - p + q), because both
sum to one. This module sums the second form: no term is negative, and the rounding of p enters only in second order.

A sampled reference holds a head H exactly and K tokens t that are drawn from the tail with probability p_t / P, where P
is the probability mass of the tail. Then:

    KL = sum_H (p log(p/q) - p + q)  +  P * E[ log(p_t/q_t) - 1 + q_t/p_t ],   t ~ p_t / P

because E[q_t/p_t - 1] * P is the tail's sum of q - p. The mean over the K draws is therefore unbiased (importance
sampling with a control variate; Schulman, "Approximating KL Divergence", 2020, calls the term k3), and its variance is
P^2 Var(...) / K. The value of a single position has this sampling noise, and so have the maximum and the high
percentiles. Means are not biased by it.

The rows of llama.cpp's base file do not sum to one, because it clips log-probabilities far below the largest. For these
rows the first form is summed over tokens with log p > -16, as llama-perplexity does. The result is llama-perplexity's
figure, not the exact one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.measure.sampling import TAIL

Array = NDArray[np.float64]
BASE_FLOOR = -16.0  # llama-perplexity sums the tokens of a base file whose log-probability is above this
BLOCK = 1 << 16  # float64 values that are computed together, so that they stay in the processor's cache


@dataclass(frozen=True)
class RowDivergence:
    """Divergence of n positions; every field has shape (n,).

    Attributes:
        kld: KL divergence in nats.
        variance: variance of `kld` due to sampling the tail; 0 if the reference is not sampled.
        same_top: whether reference and variant find the same token most probable.
        target_logprob: the reference's log-probability of the next token of the text.
        confidence: the reference's largest probability.
    """

    kld: Array
    variance: Array
    same_top: NDArray[np.bool_]
    target_logprob: Array
    confidence: Array


DivergenceFunction = Callable[
    [NDArray, NDArray[np.float32], Array, NDArray[np.integer], NDArray[np.integer]], RowDivergence
]
"""A function (rows, logits, normalizers, top, targets) that computes the divergence of n positions.

`rows` are the reference's rows, one per position, in one of three forms with a function for each. `logits` (n, n_vocab)
are the variant's, `normalizers` (n,) their log sum exp, `top` (n,) the variant's most probable tokens, and `targets`
(n,) the next tokens of the text."""


def full_divergence(
    rows: NDArray[np.float32],
    logits: NDArray[np.float32],
    normalizers: Array,
    top: NDArray[np.integer],
    targets: NDArray[np.integer],
) -> RowDivergence:
    """Divergence from rows that hold every log-probability, float32 (n, n_vocab)."""
    n, n_vocab = logits.shape
    kld = np.empty(n)
    step = max(1, BLOCK // n_vocab)
    for start in range(0, n, step):
        here = slice(start, start + step)
        logp = rows[here].astype(np.float64)
        logq = logits[here] - normalizers[here, None]
        p = np.exp(logp)
        # for p = 0 the term is q; a p that is nan stays nan
        kld[here] = np.where(p == 0, np.exp(logq), p * _terms(logp, logq)).sum(axis=1)
    index, best = np.arange(n), rows.argmax(axis=1)
    return RowDivergence(
        kld, np.zeros(n), best == top, rows[index, targets].astype(np.float64), np.exp(rows[index, best].astype(float))
    )


def sampled_divergence(
    rows: NDArray,
    logits: NDArray[np.float32],
    normalizers: Array,
    top: NDArray[np.integer],
    _targets: NDArray[np.integer],
) -> RowDivergence:
    """Divergence from sampled rows, `sampling.SAMPLED_ROW` (n,)."""
    head = rows["head_logprobs"].astype(np.float64)
    head_q = np.take_along_axis(logits, rows["head_tokens"].astype(np.intp), axis=1) - normalizers[:, None]
    tail = rows["tail_logprobs"].astype(np.float64)
    tail_q = np.take_along_axis(logits, rows["tail_tokens"].astype(np.intp), axis=1) - normalizers[:, None]
    draws = _terms(tail, tail_q)
    mass = rows["tail_mass"]
    draws[mass == 0] = 0.0  # nothing was drawn from a tail without mass
    p = np.exp(head)
    return RowDivergence(
        (p * _terms(head, head_q)).sum(axis=1) + mass * draws.mean(axis=1),
        mass**2 * draws.var(axis=1, ddof=1) / TAIL,
        rows["head_tokens"][:, 0] == top,
        rows["target_logprob"],
        p[:, 0],
    )


def base_file_divergence(
    rows: NDArray,
    logits: NDArray[np.float32],
    _normalizers: Array,
    top: NDArray[np.integer],
    targets: NDArray[np.integer],
) -> RowDivergence:
    """Divergence from the rows of a base file, `basefile.base_row` (n,), as llama-perplexity computes it."""
    n, n_vocab = logits.shape
    kld, confidence, target = np.empty(n), np.empty(n), np.empty(n)
    best = np.empty(n, np.intp)
    for i, (row, logit) in enumerate(zip(rows, logits, strict=True)):
        # rounded to float32 where llama-perplexity rounds, because a divergence near 0 consists of rounding errors
        largest = logit[top[i]]
        normalizer = largest + np.float32(np.log(np.exp(logit - largest).sum(dtype=np.float64)))
        steps = row["steps"][:n_vocab]
        logp = (np.float64(row["scale"]) * steps + np.float64(row["least"])).astype(np.float32)
        counted = np.flatnonzero(logp > BASE_FLOOR)
        counted_logp = logp[counted]
        p = np.exp(counted_logp)
        kld[i] = (p * (counted_logp - logit[counted] + normalizer)).sum(dtype=np.float64)
        best[i] = steps.argmax()
        confidence[i], target[i] = np.exp(np.float64(logp[best[i]])), logp[targets[i]]
    return RowDivergence(kld, np.zeros(n), best == top, target, confidence)


def _terms(logp: Array, logq: Array) -> Array:
    """log(p/q) - 1 + q/p, which is never negative; the caller multiplies it by p. It is 0 where p is 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        d = logq - logp
        return np.where(np.isneginf(logp), 0.0, np.expm1(d) - d)
