"""The results of text measurements, in the form in which they are stored."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.record import Divergence


@dataclass(frozen=True)
class PerplexityResult:
    """The perplexity of a text.

    Attributes:
        value: exp(mean NLL) over the scored positions.
        stderr: its standard error, as llama-perplexity computes it.
        tokens: number of scored positions.
        window_nll: mean negative log-likelihood of each window, in nats per token.
        low, high: the 95 % interval by resampling windows; None for a single window.
    """

    value: float
    stderr: float
    tokens: int
    window_nll: tuple[float, ...]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DivergenceResult:
    """The divergence from the reference over `tokens` positions.

    `figures` are those of the record; `window_kld` is the mean KL divergence of each window, in nats per token.
    """

    figures: Divergence
    tokens: int
    window_kld: tuple[float, ...]


@dataclass(frozen=True)
class NoiseFloor:
    """Mean KL divergence, in nats per token, of the reference from itself when it is computed with another batch shape.

    Measured over the first `windows` windows of the text.
    """

    kld_mean: float
    windows: int
