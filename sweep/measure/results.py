"""What the measurements of a text find, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.record import Divergence


@dataclass(frozen=True)
class PerplexityResult:
    """exp(mean NLL) over `tokens` scored positions, llama-perplexity's standard error, mean NLL (nats) by window.

    `low` and `high` bound the 95 % interval that resampling windows gives; None for a single window.
    """

    value: float
    stderr: float
    tokens: int
    window_nll: tuple[float, ...]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DivergenceResult:
    """The figures of a record, over `tokens` positions, and mean KL divergence by window."""

    figures: Divergence
    tokens: int
    window_kld: tuple[float, ...]


@dataclass(frozen=True)
class NoiseFloor:
    """Mean KL divergence of a model from itself under another batch shape, over the first `windows` of the text."""

    kld_mean: float
    windows: int
