"""Single figures with their errors: perplexity as llama-perplexity has it, and recovery above chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


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
