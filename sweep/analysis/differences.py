"""The differences between two runs, or between two variants of a run: B minus A, paired by item or by window."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sweep.statistics import ALPHA, PairedDifference


@dataclass(frozen=True)
class Side:
    """One of the two runs: its id, the name of its model in that run, and its reference."""

    run: str
    model: str
    reference: str


class Difference:
    """Base of the differences below: whether it is significant, and in whose favour."""

    difference: PairedDifference
    p_holm: float
    higher_is_better: bool

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after Holm's correction."""
        return self.p_holm < ALPHA

    @property
    def better(self) -> bool:
        """Whether B is better than A (for losses: loses less, or gains more), significantly or not."""
        return self.difference.delta > 0 if self.higher_is_better else self.difference.delta < 0


@dataclass(frozen=True)
class TaskDifference(Difference):
    """One task: variant `variant_a` of run A against `variant_b` of run B, over the items that both answered.

    `a` and `b` are the scores over those items, and `difference` is b - a. `p_holm` is corrected over all task
    differences of the comparison. `only_a` and `only_b` count the items that only one side has; `reworded` counts the
    shared documents whose prompts differ. `gold` is the difference in the probability of the correct choice among the
    choices. `cluster_kind`: what the clusters of `difference` are.
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
    cluster_kind: str = "subjects"


@dataclass(frozen=True)
class LossDifference(Difference):
    """How much a variant loses in each run: its difference from its own baseline in A (`a`) and in B (`b`).

    `difference` is b - a, item by item over the items that all four variants answered. If it is 0, B compares with A
    under the variant as it does at the baselines. `p_holm` is corrected over all differences of losses.
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
    """Perplexity or KL divergence over the same windows. `a` and `b` are the two figures; lower is better.

    `difference` is in nats per token: ln(PPL b / PPL a) for "perplexity", KLD b - KLD a for "divergence". Windows are
    the independent units. `p_holm` is corrected over all text differences. `text` is the name of the text; empty if
    the runs have only one in common.
    """

    variant_a: str
    variant_b: str
    figure: str
    a: float
    b: float
    difference: PairedDifference
    p_holm: float
    higher_is_better: bool = False
    text: str = ""


@dataclass(frozen=True)
class Comparison:
    """All differences. `notes` say what was not compared and why, and which settings of the two runs differ.

    `endings`: how those jobs of the compared variants ended that have no whole result (Ending).
    """

    a: Side
    b: Side
    tasks: tuple[TaskDifference, ...]
    losses: tuple[LossDifference, ...]
    text: tuple[TextDifference, ...]
    notes: tuple[str, ...]
    endings: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """The fields by their names, and for each difference `real`: whether it is significant."""
        row = asdict(self)
        del row["endings"]
        for name in ("tasks", "losses", "text"):
            for entry, difference in zip(row[name], getattr(self, name), strict=True):
                entry["real"] = difference.significant
        return row
