"""The expected KL divergence of int8 recipes before anything is measured. The data are in int8_quality.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, hypot, log
from pathlib import Path
from statistics import fmean, stdev

from presets.quality import quality_priors

_FILE = Path(__file__).parent / "int8_quality.toml"


@dataclass(frozen=True)
class RecipeQuality:
    """What was published about a recipe: `perplexities` of models (unquantized, quantized); or nothing, and the loss is
    `times` that of a model whose weights have `type`."""

    perplexities: Sequence[Sequence[float]] = ()
    type: str = ""
    times: float = 1.0

    @property
    def basis(self) -> str:
        """What the expectation rests on."""
        return (
            "published perplexities of other models" if self.perplexities else f"its rounding error against {self.type}"
        )


@dataclass(frozen=True)
class Int8Priors:
    """See int8_quality.toml."""

    kld_per_ln_perplexity: float
    factor_spread: float
    one_size_spread: float
    recipes: Mapping[str, RecipeQuality]

    def kld(self, recipe: str, parameters: float, architecture: str) -> tuple[float, float] | None:
        """The expected divergence in nats per token, and the standard deviation of its logarithm; None if nothing is
        known about the recipe. `parameters` and `architecture` as in `QualityPriors.kld`."""
        known = self.recipes.get(recipe)
        if known is None:
            return None
        if not known.perplexities:
            found = quality_priors().kld({known.type: 1.0}, parameters, architecture)
            return None if found is None else (known.times * found[0], hypot(found[1], self.one_size_spread / 2))
        logs = [log(log(quantized / plain)) for plain, quantized in known.perplexities]
        spread = stdev(logs) if len(logs) > 1 else self.one_size_spread
        return self.kld_per_ln_perplexity * exp(fmean(logs)), hypot(spread, self.factor_spread)


@cache
def int8_priors() -> Int8Priors:
    """The priors of int8_quality.toml."""
    content = tomllib.loads(_FILE.read_text())
    recipes = {name: RecipeQuality(**entry) for name, entry in content["recipes"].items()}
    return Int8Priors(content["kld_per_ln_perplexity"], content["factor_spread"], content["one_size_spread"], recipes)
