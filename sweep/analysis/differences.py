"""What two runs, or two variants of one, say beside each other: B minus A, paired item by item or window by window."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sweep.statistics import ALPHA, PairedDifference


@dataclass(frozen=True)
class Side:
    """One of the two runs; `model` as it was named in its run, `reference` its baseline."""

    run: str
    model: str
    reference: str


class Difference:
    """What every difference below can say of itself."""

    difference: PairedDifference
    p_holm: float
    higher_is_better: bool

    @property
    def real(self) -> bool:
        return self.p_holm < ALPHA

    @property
    def better(self) -> bool:
        """Whether B is ahead of A (of losses: loses less, or gains more), by whatever little."""
        return self.difference.delta > 0 if self.higher_is_better else self.difference.delta < 0


@dataclass(frozen=True)
class TaskDifference(Difference):
    """One task under variant `variant_a` of A and `variant_b` of B, over the items that both answered.

    `a` and `b` are the values over those items and `difference` is b - a. `p_holm` is corrected over all task
    differences of the comparison. `only_a` and `only_b` count the items that one side alone has, `reworded` the shared
    documents whose prompts differ. `gold` is the difference of the right choice's probability among the choices.
    """

    variant_a: str
    variant_b: str
    task: str
    metric: str
    higher_is_better: bool
    a: float
    b: float
    difference: PairedDifference
    p_holm: float
    flips: float
    answers_changed: float | None
    only_a: int
    only_b: int
    reworded: int
    gold: PairedDifference | None = None


@dataclass(frozen=True)
class LossDifference(Difference):
    """What the variant costs each model: its difference to its own baseline in A (`a`) and in B (`b`).

    `difference` is b - a, taken item by item over the items that all four answered: where it is none, B's edge over A
    under the variant is what it was at the baselines. `p_holm` is corrected over all of these.
    """

    variant_a: str
    variant_b: str
    task: str
    higher_is_better: bool
    a: PairedDifference
    b: PairedDifference
    difference: PairedDifference
    p_holm: float


@dataclass(frozen=True)
class TextDifference(Difference):
    """Perplexity or KL divergence over the same windows. `a` and `b` are the two figures; less is better.

    `difference` is in nats per token: ln(PPL b / PPL a) of "perplexity", KLD b - KLD a of "divergence", with windows as
    the independent units. `p_holm` is corrected over all of these.
    """

    variant_a: str
    variant_b: str
    figure: str
    a: float
    b: float
    difference: PairedDifference
    p_holm: float
    higher_is_better: bool = False


@dataclass(frozen=True)
class Comparison:
    """Everything compared. `notes` say what was not and why, and in what the two runs were measured differently."""

    a: Side
    b: Side
    tasks: tuple[TaskDifference, ...]
    losses: tuple[LossDifference, ...]
    text: tuple[TextDifference, ...]
    notes: tuple[str, ...]
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Fields as they are named here, and each difference's verdict: whether it is real after Holm's correction."""
        row = asdict(self)
        del row["failed"]
        for name in ("tasks", "losses", "text"):
            for entry, difference in zip(row[name], getattr(self, name), strict=True):
                entry["real"] = difference.real
        return row
