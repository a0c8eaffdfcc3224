"""Which candidate is the best that satisfies a target, why the others do not, and what comes nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from presets.advice import advice_rules
from sweep import format as fmt
from sweep.analysis.candidate import Candidate
from sweep.target import Constraint, Target


@dataclass(frozen=True)
class Miss:
    """A bound that a candidate does not satisfy, with the candidate's value; None if the value is not known."""

    constraint: Constraint
    value: float | None
    words: str  # after the variant's name


@dataclass(frozen=True)
class Nearest:
    """The candidate that comes nearest to one bound of a target that nothing satisfies.

    It satisfies all other bounds if any candidate does; otherwise `also_misses` are those that it misses too. `one` is
    None if no candidate's value is known.
    """

    constraint: Constraint
    one: Candidate | None
    value: float | None
    also_misses: tuple[Miss, ...] = ()


def value_of(one: Candidate, constraint: Constraint) -> float | None:
    """The candidate's value that a bound is compared with; None if it is not known."""
    if constraint is Constraint.MIN_TPS:
        return one.tokens_per_s
    if constraint is Constraint.MAX_KLD:
        return None if one.kld is None else one.kld.value
    return one.recovery


def misses(one: Candidate, target: Target) -> tuple[Miss, ...]:
    """The bounds that the candidate does not satisfy. A value that is not known satisfies none."""
    found = []
    for constraint, bound in target.bounds.items():
        value = value_of(one, constraint)
        if value is None or not constraint.is_met(value, bound):
            found.append(Miss(constraint, value, _words(one, target, constraint, value)))
    return tuple(found)


def best(found: Sequence[Candidate], target: Target) -> Candidate:
    """The best of candidates that all satisfy the target.

    What the target does not bound decides. With a bound on speed, the lowest divergence wins; below the one that nobody
    notices all count as equal, and the simplest to run and then the smallest file wins. With bounds on the loss alone,
    the smallest file wins. Candidates that were measured, and lose little enough, come before those that were not.
    """
    rules = advice_rules()
    enough = rules.adequate if target.max_kld is None else target.max_kld
    found = [one for one in found if one.is_measured and one.loss <= enough] or found
    if target.min_tps is None:
        return min(found, key=lambda one: (one.file_bytes, one.effort, one.loss))
    return min(found, key=lambda one: (max(one.loss, rules.unnoticeable), one.effort, one.file_bytes))


def nearest(found: Sequence[Candidate], target: Target) -> tuple[Nearest, ...]:
    """By bound, what comes nearest to it, if none of the candidates satisfies the target."""
    return tuple(_nearest(found, target, constraint) for constraint in target.bounds)


def _nearest(found: Sequence[Candidate], target: Target, constraint: Constraint) -> Nearest:
    values = [(one, value) for one in found if (value := value_of(one, constraint)) is not None]
    if not values:
        return Nearest(constraint, None, None)

    def others(one: Candidate) -> tuple[Miss, ...]:
        return tuple(miss for miss in misses(one, target) if miss.constraint is not constraint)

    sign = 1 if constraint is Constraint.MAX_KLD else -1
    one, value = min(values, key=lambda pair: (bool(others(pair[0])), sign * pair[1], pair[0].effort))
    return Nearest(constraint, one, value, others(one))


def nearest_words(found: Nearest, target: Target) -> str:
    """A sentence on what comes nearest to a bound."""
    bound = target.words(found.constraint)
    if found.one is None:
        words = _UNKNOWN[found.constraint]
        return f"{words[0].upper()}{words[1:]}, so no variant satisfies {bound}."
    also = "".join(f"; it {miss.words}" for miss in found.also_misses)
    return f"Nearest to {bound}: {found.one.name} ({_value(found.one, found.constraint, found.value)}){also}."


def figure(constraint: Constraint, value: float | None) -> str:
    """A value in short, for a list of variants."""
    if value is None:
        return "not known"
    if constraint is Constraint.MIN_RECOVERY:
        return f"{100 * value:.1f} %"
    return fmt.small(value) if constraint is Constraint.MAX_KLD else fmt.rate(value)


_UNKNOWN = {
    Constraint.MIN_TPS: "no stable speed is known",
    Constraint.MAX_KLD: "no KL divergence is known",
    Constraint.MIN_RECOVERY: "no task score is known",
}


def _words(one: Candidate, target: Target, constraint: Constraint, value: float | None) -> str:
    """Why a candidate misses a bound, after its name."""
    bound = target.words(constraint)
    if value is None:
        return f"may miss {bound}: {_UNKNOWN[constraint]}"
    reached = _value(one, constraint, value)
    verb = {Constraint.MIN_TPS: "generates", Constraint.MAX_KLD: "has", Constraint.MIN_RECOVERY: "keeps"}[constraint]
    article = {Constraint.MAX_KLD: "a " if one.is_measured else "an "}.get(constraint, "")
    side = "above" if constraint is Constraint.MAX_KLD else "below"
    return f"{verb} {article}{reached}, {side} {bound}"


def _value(one: Candidate, constraint: Constraint, value: float | None) -> str:
    if value is None:
        return "an unknown value"
    if constraint is Constraint.MIN_TPS:
        return one.speed_words
    if constraint is Constraint.MIN_RECOVERY:
        return f"{100 * value:.1f} % of the reference's task score"
    expected = "" if one.is_measured else "expected "
    return f"{expected}KL divergence of {fmt.small(value)} nats"
