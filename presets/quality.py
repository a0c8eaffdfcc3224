"""The expected KL divergence of quants before anything is measured. The data and the formula are in quality.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import hypot, sqrt
from pathlib import Path

_FILE = Path(__file__).parent / "quality.toml"


@dataclass(frozen=True)
class TypeQuality:
    """A model whose weights all have one type: its KL divergence in nats per token at `QualityPriors.reference`
    parameters, and the exponent by which it changes with the number of parameters."""

    kld: float
    exponent: float


@dataclass(frozen=True)
class QualityPriors:
    """See quality.toml.

    `measured_sizes` are the sizes of the smallest and the largest measured model; beyond them the divergence is that at
    the nearest of them. `spread` is the standard deviation of the logarithm of a published file's divergence around the
    prediction for it, `types_spread` that of the types of one model around the formula.
    """

    reference: float
    measured_sizes: tuple[float, float]
    published: float
    spread: float
    types_spread: float
    families: Mapping[str, float]
    types: Mapping[str, TypeQuality]

    def factor(self, architecture: str) -> tuple[float, float]:
        """A family's factor, and by how much it may be off, as a standard deviation of its logarithm.

        `architecture` is llama.cpp's name of it. An unknown family gets the geometric mean of the known ones.
        """
        found = [name for name in self.families if architecture.startswith(name)]
        if found:
            return self.families[max(found, key=len)], 0.0
        low, high = min(self.families.values()), max(self.families.values())
        return sqrt(low * high), 0.5 * (high / low - 1)

    def kld(self, shares: Mapping[str, float], parameters: float, architecture: str) -> tuple[float, float] | None:
        """The expected divergence in nats per token, and the standard deviation of its logarithm.

        `shares` are the shares of the weights by type. None if the divergence of one of the types is not known.
        """
        quantized = {name: share for name, share in shares.items() if name not in FLOATS}
        if not quantized.keys() <= self.types.keys():
            return None
        factor, spread = self.factor(architecture)
        low, high = self.measured_sizes
        size = min(max(parameters, low), high) / self.reference
        total = sum(
            share * self.types[name].kld * size ** self.types[name].exponent for name, share in quantized.items()
        )
        return self.published * factor * total, hypot(self.spread, spread)


FLOATS = ("F32", "F16", "BF16")
"""Types that lose nothing: the checkpoints are BF16."""


@cache
def quality_priors() -> QualityPriors:
    """The priors of quality.toml."""
    content = tomllib.loads(_FILE.read_text())
    return QualityPriors(
        content["reference_parameters"],
        tuple(content["measured_parameters"]),
        content["published"],
        content["spread"]["published"],
        content["spread"]["types"],
        content["families"],
        {name: TypeQuality(**entry) for name, entry in content["types"].items()},
    )
