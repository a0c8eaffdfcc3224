"""Statistics of paired measurements: every variant answers the same items, so differences are taken item by item.

Sources: McNemar (1947) in its exact binomial form; Holm (1979); Efron and Tibshirani (1993) for the percentile
bootstrap; llama.cpp's llama-perplexity for the standard error of a perplexity; Dutta et al. (arXiv 2407.09141) for
flips. Arrays in, numbers out; nothing here reads a file or knows a Record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class PairedComparison:
    """Variant against reference over the same `n` items; `delta` is variant minus reference, in the metric's unit.

    `p_value` is two-sided: the exact McNemar test where every item scores 0 or 1, the paired t test otherwise.
    `flips` is the share of items whose score changed.
    """

    delta: float
    delta_stderr: float
    p_value: float
    flips: float
    n: int


def _paired(reference: ArrayLike, variant: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(reference, np.float64), np.asarray(variant, np.float64)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(f"paired scores need two equal, non-empty rows of items, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("an item's score is not a finite number")
    return first, second


def paired_delta(reference: ArrayLike, variant: ArrayLike) -> tuple[float, float]:
    """Mean of variant minus reference over n items, and its standard error sqrt(mean((d - mean d)^2) / n).

    For 0/1 scores with b items lost and c items won this is (c - b)/n with standard error
    sqrt(b + c - (b - c)^2 / n) / n, McNemar's own variance.
    """
    first, second = _paired(reference, variant)
    difference = second - first
    return float(difference.mean()), float(difference.std() / np.sqrt(difference.size))


def mcnemar(reference: ArrayLike, variant: ArrayLike) -> float:
    """Exact two-sided McNemar p of two rows of 0/1 scores: of the items that changed, is one half won?"""
    first, second = _paired(reference, variant)
    if not np.isin([first, second], (0.0, 1.0)).all():
        raise ValueError("McNemar's test needs scores of 0 and 1")
    lost, won = int(np.sum(first > second)), int(np.sum(second > first))
    return float(stats.binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0


def flips(reference: ArrayLike, variant: ArrayLike) -> float:
    """Share of items whose score changed, in either direction: (b + c) / n for 0/1 scores."""
    first, second = _paired(reference, variant)
    return float(np.mean(first != second))


def compare_items(reference: ArrayLike, variant: ArrayLike) -> PairedComparison:
    """All paired figures of two rows of per-item scores, shape (n,) each, same items in the same order."""
    first, second = _paired(reference, variant)
    delta, stderr = paired_delta(first, second)
    if np.isin([first, second], (0.0, 1.0)).all():
        p_value = mcnemar(first, second)
    elif stderr == 0.0:  # every item moved by the same amount: the t statistic is 0/0 or infinite
        p_value = 1.0 if delta == 0.0 else 0.0
    else:
        p_value = float(stats.ttest_rel(second, first).pvalue)
    return PairedComparison(delta, stderr, p_value, flips(first, second), first.size)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p values, in the order given; `adjusted < alpha` holds the family-wise error at alpha.

    With p sorted ascending, adjusted_i = max over j <= i of min(1, (m - j) p_j), j from 0.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p values must be a row of numbers between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def bootstrap_interval(
    groups: Sequence[ArrayLike] | NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic`, resampling whole groups with replacement.

    A group is what may be taken as independent: one document's scores, or one chunk's tokens (neighbouring tokens
    correlate, so single tokens are not). `groups` holds one scalar or one row each; `statistic` sees the rows of a
    resample joined. The same seed gives the same interval.
    """
    rows = [np.atleast_1d(np.asarray(group, np.float64)) for group in groups]
    if len(rows) < 2:
        raise ValueError(f"a bootstrap needs at least two groups, got {len(rows)}")
    picks = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
    if len({row.size for row in rows}) == 1:  # chunks of one length, single scores: one gather a resample
        joined = np.stack(rows)
        values = [statistic(joined[pick].ravel()) for pick in picks]
    else:
        values = [statistic(np.concatenate([rows[i] for i in pick])) for pick in picks]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def perplexity(nll: ArrayLike) -> tuple[float, float]:
    """exp(mean) of per-token negative log-likelihoods in nats, shape (tokens,), and its standard error.

    As llama-perplexity prints it: the standard error of the mean times the perplexity (delta method),
    with n - 1 in the variance. Tokens are taken as independent, which chunks are not: see `bootstrap_interval`.
    """
    values = np.asarray(nll, np.float64)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"a perplexity with an error needs at least two tokens, got shape {values.shape}")
    value = float(np.exp(values.mean()))
    return value, value * float(values.std(ddof=1) / np.sqrt(values.size))


def recovery(score: float, reference: float, chance: float) -> float:
    """Share of the reference's score above chance that is kept: (score - chance) / (reference - chance)."""
    return (score - chance) / (reference - chance)


def recovery_stderr(
    score: float, reference: float, chance: float, score_stderr: float, reference_stderr: float, delta_stderr: float
) -> float:
    """Standard error of `recovery` by the delta method for a ratio of paired means.

    The covariance follows from the three errors: cov = (score_stderr^2 + reference_stderr^2 - delta_stderr^2) / 2.
    """
    kept = recovery(score, reference, chance)
    covariance = (score_stderr**2 + reference_stderr**2 - delta_stderr**2) / 2.0
    variance = score_stderr**2 + kept**2 * reference_stderr**2 - 2.0 * kept * covariance
    return float(np.sqrt(max(variance, 0.0)) / abs(reference - chance))  # rounding may leave -1e-18


def pareto_set(cost: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point beats: none is as good or better on both axes and better on one. Less is better.

    Shapes (n,) and (n,) -> (n,). Equal points stand or fall together.
    """
    c, v = np.asarray(cost, np.float64), np.asarray(loss, np.float64)
    if c.ndim != 1 or c.shape != v.shape:
        raise ValueError(f"a Pareto set needs two equal rows, got {c.shape} and {v.shape}")
    no_worse = (c[:, None] <= c) & (v[:, None] <= v)  # [i, j]: i is no worse than j
    better = (c[:, None] < c) | (v[:, None] < v)
    return ~np.any(no_worse & better, axis=0)
