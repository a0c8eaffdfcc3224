"""KL divergence of a variant from the reference, per scored position, in nats.

For distributions p (reference) and q (variant), KL(p || q) = sum p log(p/q) = sum (p log(p/q) - p + q), since both sum
to one. The second form is summed here: no term is negative, and rounding of p enters only in second order.

Where the reference holds a head H and K tokens t drawn from the tail with chance p_t / P, P the mass of the tail:

    KL = sum_H (p log(p/q) - p + q)  +  P * E[ log(p_t/q_t) - 1 + q_t/p_t ],   t ~ p_t / P

since E[q_t/p_t - 1] * P is the tail's sum of q - p. The mean over the K draws is therefore unbiased (importance
sampling with a control variate; Schulman, "Approximating KL Divergence", 2020, calls the term k3), and its variance is
P^2 Var(...) / K, summed up as `sampling_stderr`. A single position's value, and so the maximum and the 99.9 %
percentile, carry that noise; means do not drift with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.measure.reference import TAIL
from sweep.record import Divergence

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RowDivergence:
    """Of n positions: the divergence, the variance that tail sampling gave it, and whether the top tokens agree."""

    kld: Array
    variance: Array
    same_top: NDArray[np.bool_]


@dataclass(frozen=True)
class DivergenceResult:
    """KL(reference || variant) in nats a token over all scored positions, and the share of equal top tokens.

    `kld_stderr` takes windows as the units, since neighbouring tokens are alike. `sampling_stderr` is the part that
    comes of sampling the reference's tail; 0 where its rows are complete.
    """

    kld_mean: float
    kld_stderr: float
    kld_p99_9: float
    kld_max: float
    top1_agreement: float
    sampling_stderr: float
    tokens: int
    window_kld: tuple[float, ...]

    def record(self, noise_floor: float | None = None) -> Divergence:
        return Divergence(
            self.kld_mean, self.kld_stderr, self.kld_p99_9, self.kld_max, self.top1_agreement, noise_floor
        )


def _terms(logp: Array, logq: Array) -> Array:
    """log(p/q) - 1 + q/p, never negative; times p it is what is summed. -inf in both is no difference."""
    with np.errstate(invalid="ignore", over="ignore"):
        d = logq - logp
        return np.where(np.isneginf(logp), 0.0, np.expm1(d) - d)


def row_divergence(rows: NDArray, logits: NDArray[np.float32], normalizers: NDArray[np.float64]) -> RowDivergence:
    """Divergence of `logits` (n, n_vocab), with log-normalizers (n,), from the reference's rows of those positions."""
    n = len(logits)
    top = logits.argmax(axis=1)
    if rows.dtype.names is None:
        logp = rows.astype(np.float64)
        logq = logits - normalizers[:, None]
        p = np.exp(logp)
        # where p is 0 only q is left of the term
        kld = (np.where(p > 0, p * _terms(logp, logq), np.exp(logq))).sum(axis=1)
        return RowDivergence(kld, np.zeros(n), logp.argmax(axis=1) == top)
    index = np.arange(n)[:, None]
    head = rows["head_logprobs"].astype(np.float64)
    head_q = logits[index, rows["head_tokens"]] - normalizers[:, None]
    tail = rows["tail_logprobs"].astype(np.float64)
    tail_q = logits[index, rows["tail_tokens"]] - normalizers[:, None]
    draws = _terms(tail, tail_q)
    mass = rows["tail_mass"]
    draws[mass == 0] = 0.0  # a tail without mass was not drawn from
    kld = (np.exp(head) * _terms(head, head_q)).sum(axis=1) + mass * draws.mean(axis=1)
    variance = mass**2 * draws.var(axis=1, ddof=1) / TAIL
    return RowDivergence(kld, variance, rows["head_tokens"][:, 0] == top)


def summarize_kld(kld: Array, variance: Array, same_top: NDArray[np.bool_]) -> DivergenceResult:
    """From per-position values, each (n_windows, rows)."""
    by_window = kld.mean(axis=1)
    # what a bootstrap over windows converges to, in closed form: they are of one size and the figure is a mean
    stderr = by_window.std(ddof=1) / np.sqrt(len(by_window)) if len(by_window) > 1 else float("nan")
    return DivergenceResult(
        kld_mean=float(kld.mean()),
        kld_stderr=float(stderr),
        kld_p99_9=float(np.quantile(kld, 0.999)),
        kld_max=float(kld.max()),
        top1_agreement=float(same_top.mean()),
        sampling_stderr=float(np.sqrt(variance.sum()) / kld.size),
        tokens=kld.size,
        window_kld=tuple(by_window.tolist()),
    )
