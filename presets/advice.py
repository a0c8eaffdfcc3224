"""The assumptions and demands of the advice. The data and their sources are in advice.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "advice.toml"


@dataclass(frozen=True)
class Demand:
    """At least so many tokens per second with at most so many nats per token of KL divergence; of those that meet it,
    only variants with this share of the fastest one's speed are chosen."""

    tokens_per_s: float
    kld: float
    share_of_fastest: float


@dataclass(frozen=True)
class Tolerance:
    """The loss on tasks that one accepts: a share of all items (0.02: two points), or with `of_score` a share of the
    reference's score above chance."""

    value: float
    of_score: bool = False

    @classmethod
    def default(cls) -> Tolerance:
        return cls(advice_rules().tolerance)

    def points(self, score: float, chance: float) -> float:
        """The loss for this score of the reference, as a share of all items."""
        return self.value * max(0.0, score - chance) if self.of_score else self.value


@dataclass(frozen=True)
class SpeedAssumptions:
    """Shares of the memory bandwidth that generation reaches, by where the weights are, and the bandwidths in bytes per
    second of RAM and of a GPU where they are not known. `iq_types_in_ram` and `iq_types_on_older_gpus` are further
    factors; `older_gpus` are parts of the names of these GPUs. `torch_kinds` are the kinds of devices on which a
    server runs what torch made."""

    devices: float
    ram: float
    experts_in_ram: float
    ram_bandwidth: float
    gpu_bandwidth: float
    iq_types_in_ram: float
    iq_types_on_older_gpus: float
    older_gpus: Sequence[str]
    torch_kinds: Sequence[str]


@dataclass(frozen=True)
class AdviceRules:
    """See advice.toml: the demands from the best to the least, and what is known about KV and tensor types."""

    demands: tuple[Demand, ...]
    adequate: float
    unnoticeable: float
    other_model_speed: float
    tolerance: float
    clear_loss: float
    speed: SpeedAssumptions
    kv_types: Mapping[str, float]
    not_chosen: Mapping[str, str]


@cache
def advice_rules() -> AdviceRules:
    """The rules of advice.toml."""
    content = tomllib.loads(_FILE.read_text())
    return AdviceRules(
        tuple(Demand(**step) for step in content["step"]),
        content["adequate"],
        content["unnoticeable"],
        content["other_model_tokens_per_s"],
        content["tolerance"],
        content["clear_loss"],
        SpeedAssumptions(**content["speed"]),
        content["kv_types"],
        content["not_chosen"],
    )
