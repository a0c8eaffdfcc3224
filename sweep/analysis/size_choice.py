"""Which model and which quant for N bytes of memory: the smaller model at more bits, or the larger at fewer?

Each model comes with its own best variant that fits, by the rule of the advice: the smallest whose KL divergence nobody
notices, or else the lowest divergence. Unlike the advice about one model, no loss is too large here: a larger model may
lose a lot and still be better. The models are then compared in absolute terms: by their mean score on the same items,
and, where the items leave the difference open, by their perplexity on the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from presets.advice import Tolerance, advice_rules
from sweep.analysis import figures
from sweep.analysis.candidate import Candidate
from sweep.analysis.pareto_sets import Lead, Losses
from sweep.analysis.run_candidates import run_candidates
from sweep.analysis.size_scaling import SizedModel, SizeScaling, key_of


@dataclass(frozen=True)
class Contender:
    """A model at the variant that is best for it within a limit. `memory_bytes` is what llama.cpp predicts; if it was
    not predicted, what was measured."""

    model: str
    variant: str
    memory_bytes: int
    file_bytes: int

    @property
    def key(self) -> str:
        return key_of(self.model, self.variant)

    @property
    def name(self) -> str:
        return f"{self.model} in {self.variant}"


class Evidence(StrEnum):
    """What shows that the choice is better than another model."""

    TASKS = "tasks"
    PERPLEXITY = "perplexity"
    OPEN = "open"


@dataclass(frozen=True)
class Comparison:
    """The choice against another model at its best. `score` and `perplexity` are the leads of the choice, in mean score
    (a share) and in perplexity; None if they were not compared. `evidence` is the first of them that is significant."""

    other: Contender
    score: Lead | None
    perplexity: Lead | None

    @property
    def evidence(self) -> Evidence:
        if self.score is not None and self.score.low > 0:
            return Evidence.TASKS
        return Evidence.PERPLEXITY if self.perplexity is not None and self.perplexity.low > 0 else Evidence.OPEN

    @property
    def contradicts(self) -> bool:
        """Whether one figure is significantly better and the other significantly worse."""
        leads = [lead for lead in (self.score, self.perplexity) if lead is not None and lead.significant]
        return len({lead.delta > 0 for lead in leads}) > 1


@dataclass(frozen=True)
class SizeChoice:
    """The choice for `limit_bytes` of memory, or None if nothing fits, against the other models that fit, the closest
    rival first."""

    limit_bytes: int
    pick: Contender | None
    against: tuple[Comparison, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether a rival may be as good, for all that was measured."""
        return any(one.evidence is Evidence.OPEN for one in self.against)

    def to_json(self) -> dict[str, Any]:
        return {
            "limit_bytes": self.limit_bytes,
            **_contender(self.pick),
            "open": self.is_open,
            "against": [
                {
                    **_contender(one.other),
                    "score": None if one.score is None else vars(one.score),
                    "perplexity": None if one.perplexity is None else vars(one.perplexity),
                    "evidence": one.evidence.value,
                }
                for one in self.against
            ],
        }


def _contender(one: Contender | None) -> dict[str, Any]:
    return {"model": None, "variant": None, "memory_bytes": None, "file_bytes": None} if one is None else vars(one)


def choose(scaling: SizeScaling, limit_bytes: int, tolerance: Tolerance | None = None) -> SizeChoice:
    """The model and the variant for this much memory. There is no choice if nothing compares the models."""
    fitting = [found for model in scaling.models if (found := _best_of(model, limit_bytes, tolerance)) is not None]
    known = [one for one in fitting if any(one.key in losses.values for losses in _measures(scaling))]
    if not known:
        return SizeChoice(limit_bytes, None)
    pick, *others = _ranked(known, scaling)
    return SizeChoice(limit_bytes, pick, tuple(_compared(pick, other, scaling) for other in others))


def frontier(scaling: SizeScaling, tolerance: Tolerance | None = None) -> list[SizeChoice]:
    """The choices for all amounts of memory, from the least that any variant needs. `limit_bytes` is where each begins:
    there, the choice or its closest rival changes."""
    needs = {
        need[0] for model in scaling.models for record in model.records if (need := figures.memory(record)) is not None
    }
    found: list[SizeChoice] = []
    for limit in sorted(needs):
        choice = choose(scaling, limit, tolerance)
        if choice.pick is not None and (not found or _differ(choice, found[-1])):
            found.append(choice)
    return found


def _differ(a: SizeChoice, b: SizeChoice) -> bool:
    return a.pick != b.pick or [one.other for one in a.against[:1]] != [one.other for one in b.against[:1]]


def _measures(scaling: SizeScaling) -> list[Losses]:
    return [losses for losses in (scaling.scores, scaling.texts) if losses is not None]


def _best_of(model: SizedModel, limit_bytes: int, tolerance: Tolerance | None) -> Contender | None:
    """The best variant of a model that fits; None if none does."""
    fitting = [one for one in run_candidates(model.records, model.name, limit_bytes, tolerance) if not one.obstacle]
    if not fitting:
        return None
    bits = {record.variant: record.bits_per_weight or 0.0 for record in model.records}
    memory = {record.variant: need[0] for record in model.records if (need := figures.memory(record)) is not None}
    unnoticeable = advice_rules().unnoticeable

    def rank(one: Candidate) -> tuple[Any, ...]:
        if one.kld is None:  # no text: tasks tell variants of one model apart too rarely, more bits lose less
            return bool(one.shown_loss), -bits[one.variant], memory[one.variant]
        return bool(one.shown_loss), max(one.loss, unnoticeable), memory[one.variant]

    best = min(fitting, key=rank)
    return Contender(model.name, best.variant, memory[best.variant], best.file_bytes)


def _ranked(contenders: Sequence[Contender], scaling: SizeScaling) -> list[Contender]:
    """The best first: by mean score; those that the items cannot tell from the first are ordered by perplexity."""
    scores, texts = scaling.scores, scaling.texts
    if scores is None:
        return _by(contenders, texts)
    by_score = _by(contenders, scores)
    if texts is None:
        return by_score
    first = by_score[0]
    close = [one for one in by_score if one is first or _is_close(scores.lead(first.key, one.key))]
    return [*_by(close, texts), *(one for one in by_score if one not in close)]


def _by(contenders: Sequence[Contender], losses: Losses | None) -> list[Contender]:
    values = {} if losses is None else losses.values
    return sorted(contenders, key=lambda one: (values.get(one.key, float("inf")), one.memory_bytes))


def _is_close(lead: Lead | None) -> bool:
    """Whether a lead may be none. Without samples to test it, it counts as it was measured."""
    return lead is not None and not lead.significant


def _compared(pick: Contender, other: Contender, scaling: SizeScaling) -> Comparison:
    score, perplexity = (
        None if losses is None else losses.lead(pick.key, other.key) for losses in (scaling.scores, scaling.texts)
    )
    return Comparison(other, score, perplexity)
