"""The KL divergence of a variant in nats per token, as it was measured or as it is expected before that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from statistics import NormalDist, fmean

from presets.quality import quality_priors
from sweep.fit.weight_types import WeightTypes

HALF_INTERVAL = NormalDist().inv_cdf(0.975)
"""Half width of a 95 % interval in standard deviations. sweep.statistics, which has it too, loads scipy."""


@dataclass(frozen=True)
class ExpectedKld:
    """A mean KL divergence in nats per token with its 95 % interval; `source` is "prior" or "measured"."""

    value: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class MeasuredKld:
    """A variant's mean KL divergence from `reference` with its standard error, in nats per token, and its run."""

    kld: float
    stderr: float
    reference: str
    run: str


def expected_klds(
    weights: Mapping[str, WeightTypes | None], architecture: str, measured: Mapping[str, float]
) -> dict[str, ExpectedKld]:
    """The divergences that published measurements of other models lead to expect, by variant; see presets/quality.toml.

    `measured` are divergences of variants of this model. If there are any, the expectations are scaled so that they
    agree with them on average; they are less uncertain then. Variants with a type of which nothing was published are
    left out.
    """
    priors = quality_priors()
    found = {
        name: kld
        for name, types in weights.items()
        if types is not None and (kld := priors.kld(types.shares, types.effective, architecture)) is not None
    }
    ratios = [log(value / found[name][0]) for name, value in measured.items() if value > 0 and found.get(name, (0,))[0]]
    scale = exp(fmean(ratios)) if ratios else 1.0
    return {
        name: _interval(scale * value, priors.types_spread if ratios else spread)
        for name, (value, spread) in found.items()
    }


def _interval(value: float, spread: float) -> ExpectedKld:
    factor = exp(HALF_INTERVAL * spread)
    return ExpectedKld(value, value / factor, value * factor, "prior")


def measured_kld(found: MeasuredKld) -> ExpectedKld:
    """A divergence that was measured, with the interval that its standard error gives."""
    half = HALF_INTERVAL * found.stderr
    return ExpectedKld(found.kld, max(0.0, found.kld - half), found.kld + half, "measured")
