"""The KL divergence of a variant in nats per token, as it was measured or as it is expected before that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from statistics import NormalDist, fmean

from presets.int8_quality import int8_priors
from presets.quality import quality_priors
from sweep.fit.weight_types import WeightTypes

HALF_INTERVAL = NormalDist().inv_cdf(0.975)
"""Half width of a 95 % interval in standard deviations. sweep.statistics, which has it too, loads scipy."""

PUBLISHED = "published measurements of other models"
"""The basis of an expectation that rests on published KL divergences."""

MEASURED_WITH_F16 = "its measurement with an f16 KV cache"
"""The basis of an expectation for another type of cache."""

NEAR = 4.0
"""Ratio of two expected divergences below which a measurement of one says something about the other."""


@dataclass(frozen=True)
class ExpectedKld:
    """A mean KL divergence in nats per token with its 95 % interval; `source` is "prior" or "measured".

    `basis` says what a prior rests on, or for which tokens a divergence was measured, if not for those of the run's
    only text.
    """

    value: float
    low: float
    high: float
    source: str
    basis: str = ""

    @property
    def is_weak(self) -> bool:
        """Whether it is expected from something else than published divergences."""
        return self.source == "prior" and self.basis not in (PUBLISHED, MEASURED_WITH_F16)

    def plus(self, added: float) -> ExpectedKld:
        """With a further loss, which is known."""
        return replace(self, value=self.value + added, low=self.low + added, high=self.high + added)


@dataclass(frozen=True)
class MeasuredKld:
    """A variant's mean KL divergence from `reference` with its standard error, in nats per token, and its run. `tokens`
    says for which tokens it was measured, if not for those of the run's only text."""

    kld: float
    stderr: float
    reference: str
    run: str
    tokens: str = ""


@dataclass(frozen=True)
class RelativeKld:
    """What a run measured of a variant of another model of the same series, with that model's number of weights."""

    variant: str
    kld: float
    parameters: float


def expected_klds(
    weights: Mapping[str, WeightTypes | None],
    architecture: str,
    measured: Mapping[str, float],
    relatives: Sequence[RelativeKld] = (),
) -> dict[str, ExpectedKld]:
    """The divergences that published measurements of other models lead to expect, by variant; see presets/quality.toml.

    `measured` are divergences of variants of this model. An expectation is scaled by the ratio of measured to expected
    divergence of the measured variants whose expectations are near to it, and is less uncertain then. Without such a
    variant it is scaled by the same ratio of `relatives`, which were measured over the same kind of text. Variants with
    a type of which nothing was published are left out.
    """
    priors = quality_priors()
    found = {
        name: kld
        for name, types in weights.items()
        if types is not None and (kld := priors.kld(types.shares, types.effective, architecture)) is not None
    }
    ratios = {
        name: log(value / found[name][0])
        for name, value in measured.items()
        if value > 0 and found.get(name, (0.0,))[0]
    }

    of_relatives = _ratios_of_relatives(weights, architecture, relatives)

    def scaled(value: float, spread: float) -> ExpectedKld:
        near = [ratio for name, ratio in ratios.items() if abs(log(found[name][0] / value)) < log(NEAR)]
        if near:
            return _interval(exp(fmean(near)) * value, priors.types_spread)
        if of_relatives:  # both models are off from the formula by the spread of one
            return _interval(exp(fmean(of_relatives)) * value, sqrt(2) * priors.types_spread)
        return _interval(value, spread)

    lossless = ExpectedKld(0.0, 0.0, 0.0, "prior", PUBLISHED)
    return {name: scaled(*one) if one[0] else lossless for name, one in found.items()}


def _ratios_of_relatives(
    weights: Mapping[str, WeightTypes | None], architecture: str, relatives: Sequence[RelativeKld]
) -> list[float]:
    """Logarithms of measured / expected divergence. A relative's variant is taken to have the shares of types that the
    variant of the same name has in this model, and a token to use the same share of its weights."""
    found = []
    for one in relatives:
        types = weights.get(one.variant)
        if types is None or one.kld <= 0:
            continue
        size = one.parameters * types.effective / types.parameters
        expected = quality_priors().kld(types.shares, size, architecture)
        if expected is not None and expected[0] > 0:
            found.append(log(one.kld / expected[0]))
    return found


def expected_int8_klds(recipes: Mapping[str, str], parameters: float, architecture: str) -> dict[str, ExpectedKld]:
    """The divergences to expect of int8 variants, by variant; see presets/int8_quality.toml.

    `recipes` are the names of the built-in recipes, by variant. Those about which nothing is known are left out.
    """
    priors = int8_priors()
    return {
        name: _interval(*kld, priors.recipes[recipe].basis)
        for name, recipe in recipes.items()
        if (kld := priors.kld(recipe, parameters, architecture)) is not None
    }


def _interval(value: float, spread: float, basis: str = PUBLISHED) -> ExpectedKld:
    factor = exp(HALF_INTERVAL * spread)
    return ExpectedKld(value, value / factor, value * factor, "prior", basis)


def measured_kld(found: MeasuredKld) -> ExpectedKld:
    """A divergence that was measured, with the interval that its standard error gives."""
    half = HALF_INTERVAL * found.stderr
    return ExpectedKld(found.kld, max(0.0, found.kld - half), found.kld + half, "measured", found.tokens)
