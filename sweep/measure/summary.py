"""Summarizes the divergence of a variant from the reference over all positions.

It computes the figures that llama-perplexity prints, with its definitions (llama.cpp, tools/perplexity): standard
errors treat positions as independent; those of ratios and differences of perplexities follow by the delta method from
the covariance of the two rows of log-likelihoods; percentiles are interpolated linearly.

In addition it computes standard errors and intervals by window, because neighbouring positions correlate, and the
divergence by the reference's confidence.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep import statistics
from sweep.measure.positions import Positions
from sweep.measure.text_results import DivergenceResult
from sweep.record import Confidence, Divergence

Array = NDArray[np.float64]

KLD_PERCENTILES = (0.0, 0.1, 1.0, 5.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
DELTA_P_PERCENTILES = (0.0, 0.1, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)
CONFIDENCES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def summarize_divergence(positions: Positions) -> DivergenceResult:
    """All figures of the divergence except the noise floor, which is measured with the reference alone."""
    kld, same_top = positions.kld, positions.same_top
    by_window = kld.mean(axis=1)
    low = high = None
    stderr = float("nan")
    if len(by_window) > 1:
        # the closed form of a bootstrap over windows: windows have equal sizes, and the figure is a mean
        stderr = float(by_window.std(ddof=1) / np.sqrt(len(by_window)))
        low, high = statistics.bootstrap_interval(by_window)
    percentiles = _percentiles(kld, KLD_PERCENTILES)
    agreement = float(same_top.mean())
    figures = Divergence(
        kld_mean=float(kld.mean()),
        kld_stderr=stderr,
        kld_p99_9=percentiles["99.9"],
        kld_max=percentiles["100"],
        top1_agreement=agreement,
        kld_low=low,
        kld_high=high,
        kld_token_stderr=_mean_stderr(kld)[1],
        kld_percentiles=percentiles,
        sampling_stderr=float(np.sqrt(positions.variance.sum()) / kld.size),
        top1_stderr=float(np.sqrt(agreement * (1 - agreement) / (kld.size - 1))),
        by_confidence=_by_confidence(positions),
        **_perplexities(positions.nll.ravel(), positions.reference_nll.ravel()),
        **_delta_p(np.exp(-positions.nll) - np.exp(-positions.reference_nll)),
    )
    return DivergenceResult(figures, kld.size, tuple(by_window.tolist()))


def _perplexities(nll: Array, reference: Array) -> dict[str, Any]:
    """The reference's perplexity, and the variant's compared with it, from negative log-likelihoods (n,) of both."""
    (mean, stderr), (base, base_stderr) = _mean_stderr(nll), _mean_stderr(reference)
    covariance = float(np.cov(nll, reference)[0, 1] / nll.size)  # of the two means
    ratio_stderr = _root(stderr**2 + base_stderr**2 - 2 * covariance)
    value, base_value = float(np.exp(mean)), float(np.exp(base))
    ratio = float(np.exp(mean - base))
    difference_variance = (value * stderr) ** 2 + (base_value * base_stderr) ** 2 - 2 * value * base_value * covariance
    product = stderr * base_stderr
    return {
        "perplexity_reference": base_value,
        "perplexity_reference_stderr": base_value * base_stderr,
        "perplexity_correlation": covariance / product if product > 0 else None,
        "perplexity_log_ratio": mean - base,
        "perplexity_log_ratio_stderr": ratio_stderr,
        "perplexity_ratio": ratio,
        "perplexity_ratio_stderr": ratio * ratio_stderr,
        "perplexity_difference": value - base_value,
        "perplexity_difference_stderr": _root(difference_variance),
    }


def _delta_p(difference: Array) -> dict[str, Any]:
    """Figures of `difference`: the probability of the next token by the variant minus that by the reference."""
    mean, stderr = _mean_stderr(difference)
    square, square_stderr = _mean_stderr(difference**2)
    rms = float(np.sqrt(square))
    return {
        "delta_p_mean": mean,
        "delta_p_stderr": stderr,
        "delta_p_rms": rms,
        "delta_p_rms_stderr": 0.5 / rms * square_stderr if rms > 0 else 0.0,
        "delta_p_percentiles": _percentiles(difference, DELTA_P_PERCENTILES),
    }


def _by_confidence(positions: Positions) -> tuple[Confidence, ...]:
    """The divergence by intervals of the reference's largest probability; intervals without positions are left out."""
    bucket = np.clip(np.digitize(positions.confidence, CONFIDENCES) - 1, 0, len(CONFIDENCES) - 2)
    found = []
    for i, (low, high) in enumerate(pairwise(CONFIDENCES)):
        inside = bucket == i
        if inside.any():
            kld, agreement = positions.kld[inside].mean(), positions.same_top[inside].mean()
            found.append(Confidence(low, high, int(inside.sum()), float(kld), float(agreement)))
    return tuple(found)


def _percentiles(values: Array, at: tuple[float, ...]) -> dict[str, float]:
    found = np.quantile(values, np.array(at) / 100)
    return {f"{per_cent:g}": float(value) for per_cent, value in zip(at, found, strict=True)}


def _mean_stderr(values: Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def _root(value: float) -> float:
    return float(np.sqrt(max(value, 0.0)))  # rounding can give -1e-18
