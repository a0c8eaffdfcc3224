"""Figures with their standard errors: perplexity as llama-perplexity computes it, and recovery above chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def perplexity(nll: ArrayLike) -> tuple[float, float]:
    """Perplexity and its standard error: exp(mean) of the negative log-likelihoods `nll` (tokens,) in nats per token.

    Both are computed as llama-perplexity does: the standard error is that of the mean, with n - 1 in the variance,
    times the perplexity (delta method). This treats tokens as independent, but neighbouring tokens correlate;
    `bootstrap_interval` over chunks does not assume independence. Raises ValueError for fewer than two tokens.
    """
    values = np.asarray(nll, np.float64)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"a perplexity with a standard error needs at least two tokens, got shape {values.shape}")
    value = float(np.exp(values.mean()))
    return value, value * float(values.std(ddof=1) / np.sqrt(values.size))


def recovery(score: float, reference: float, chance: float) -> float:
    """Recovery as a share: (score - chance) / (reference - chance); 1 is as good as the reference, 0 is guessing."""
    return (score - chance) / (reference - chance)


def recovery_stderr(
    score: float, reference: float, chance: float, score_stderr: float, reference_stderr: float, delta_stderr: float
) -> float:
    """Standard error of `recovery` by the delta method for a ratio of paired means.

    `delta_stderr` is the standard error of the paired difference score - reference. The covariance of the two scores
    follows from the three errors: cov = (score_stderr^2 + reference_stderr^2 - delta_stderr^2) / 2.
    """
    ratio = recovery(score, reference, chance)
    covariance = (score_stderr**2 + reference_stderr**2 - delta_stderr**2) / 2.0
    variance = score_stderr**2 + ratio**2 * reference_stderr**2 - 2.0 * ratio * covariance
    return float(np.sqrt(max(variance, 0.0)) / abs(reference - chance))  # rounding can give -1e-18
