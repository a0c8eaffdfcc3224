"""The target that a user sets for the advice: bounds on the speed, the divergence and the task scores of a variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Constraint(StrEnum):
    """One bound of a target. The values are the names in JSON and in presets."""

    MIN_TPS = "min_tps"
    MAX_KLD = "max_kld"
    MIN_RECOVERY = "min_recovery"

    @property
    def option(self) -> str:
        """The option that sets it."""
        return f"--{self.value.replace('_', '-')}"

    def is_met(self, value: float, bound: float) -> bool:
        """Whether a value satisfies a bound."""
        return value <= bound if self is Constraint.MAX_KLD else value >= bound


@dataclass(frozen=True)
class Target:
    """The bounds; None: there is none.

    `min_tps` is in tokens per second of one sequence, `max_kld` in nats per token, and `min_recovery` is the share of
    the reference's task score above chance (0.95: 95 percent).
    """

    min_tps: float | None = None
    max_kld: float | None = None
    min_recovery: float | None = None

    def __bool__(self) -> bool:
        return bool(self.bounds)

    @property
    def bounds(self) -> Mapping[Constraint, float]:
        """The bounds that are set."""
        every = {
            Constraint.MIN_TPS: self.min_tps,
            Constraint.MAX_KLD: self.max_kld,
            Constraint.MIN_RECOVERY: self.min_recovery,
        }
        return {constraint: bound for constraint, bound in every.items() if bound is not None}

    @property
    def bounds_quality(self) -> bool:
        """Whether it bounds the loss."""
        return self.max_kld is not None or self.min_recovery is not None

    def number(self, constraint: Constraint) -> str:
        """A bound as it is typed: "95" for a share of 0.95."""
        scale = 100 if constraint is Constraint.MIN_RECOVERY else 1
        return f"{self.bounds[constraint] * scale:.10g}"

    def words(self, constraint: Constraint) -> str:
        """The option and its value, as they are typed: "--min-tps 30"."""
        return f"{constraint.option} {self.number(constraint)}"

    def __str__(self) -> str:
        return " ".join(map(self.words, self.bounds))


NO_TARGET = Target()
