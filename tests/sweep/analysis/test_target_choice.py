"""The best variant that satisfies a target, by brute force over small sets, and what is said of the others."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from presets.advice import advice_rules
from sweep.analysis.advice import Advice, advise, to_json
from sweep.analysis.candidate import AdvisedPlacement, Candidate
from sweep.analysis.priors import ExpectedKld
from sweep.analysis.target_choice import value_of
from sweep.report.advice import exclusions
from sweep.target import Constraint, Target

PLACES = (AdvisedPlacement.GPU, AdvisedPlacement.GPU, AdvisedPlacement.EXPERTS, AdvisedPlacement.LAYERS)


def candidate(
    name: str, kld: float | None = 0.01, speed: float | None = 50.0, size: int = 10**9, **more: object
) -> Candidate:
    known = None if kld is None else ExpectedKld(kld, kld, kld, "measured")
    fields = {"kv_type": "f16", "context": 8192, "placement": AdvisedPlacement.GPU, "speed_is_measured": True} | more
    return Candidate("m", name, size, kld=known, tokens_per_s=speed, **fields)


def some_candidates(chance: random.Random) -> list[Candidate]:
    return [
        candidate(
            f"V{at}",
            chance.choice([None, 0.0005, 0.003, 0.01, 0.01, 0.05, 0.2, 0.5]),
            chance.choice([None, 1.0, 5.0, 20.0, 20.0, 60.0]),
            chance.randrange(1, 6) * 10**9,
            placement=chance.choice(PLACES),
            recovery=chance.choice([None, 0.7, 0.93, 0.99, 1.01]),
            obstacle=chance.choice(["", "", "", "does not fit: it needs 1.00 GiB more"]),
        )
        for at in range(chance.randrange(1, 7))
    ]


def some_target(chance: random.Random) -> Target:
    bounds = [chance.choice([None, *values]) for values in ((2.0, 20.0, 100.0), (0.003, 0.02, 0.4), (0.9, 1.0))]
    return Target(*bounds) if any(bounds) else Target(min_tps=20.0)


def cases(seed: int) -> Iterator[tuple[list[Candidate], Target]]:
    chance = random.Random(seed)
    for _ in range(300):
        yield some_candidates(chance), some_target(chance)


def satisfies(one: Candidate, target: Target) -> bool:
    """The definition, written once more: it runs, and every bound holds of a known value."""
    known = [
        (target.min_tps, one.tokens_per_s, 1),
        (target.max_kld, None if one.kld is None else one.kld.value, -1),
        (target.min_recovery, one.recovery, 1),
    ]
    return not one.obstacle and all(
        bound is None or (value is not None and sign * value >= sign * bound) for bound, value, sign in known
    )


def is_usable_at_all(one: Candidate, target: Target) -> bool:
    """What is demanded of figures that the target does not bound."""
    last = advice_rules().demands[-1]
    fast = target.min_tps is not None or one.tokens_per_s is None or one.tokens_per_s >= last.tokens_per_s
    return one.kld is not None and fast and (target.bounds_quality or one.kld.value <= last.kld)


def rank(one: Candidate, target: Target) -> tuple[float, ...]:
    """Lower is better. All candidates here are measured."""
    assert one.kld is not None
    if target.min_tps is None:
        return (one.file_bytes, one.effort, one.kld.value)
    return (max(one.kld.value, advice_rules().unnoticeable), one.effort, one.file_bytes)


def enough(target: Target) -> float:
    return advice_rules().adequate if target.max_kld is None else target.max_kld


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_best_of_all_that_satisfy_the_target(seed: int) -> None:
    for found, target in cases(seed):
        if any(one.kld is not None for one in found):  # otherwise tasks alone decide
            check_the_choice(found, target)


def check_the_choice(found: Sequence[Candidate], target: Target) -> None:
    advice = advise("m", found, target)
    able = [one for one in found if satisfies(one, target) and is_usable_at_all(one, target)]
    able = [one for one in able if one.kld and one.kld.value <= enough(target)] or able
    if not able:
        assert advice.pick is None
        return
    assert advice.pick in able
    assert rank(advice.pick, target) == min(rank(one, target) for one in able)


@pytest.mark.parametrize("seed", range(4, 8))
def test_what_is_said_of_each_other_variant_is_true(seed: int) -> None:
    for found, target in cases(seed):
        check_what_is_said(found, target)


def check_what_is_said(found: Sequence[Candidate], target: Target) -> None:
    advice = advise("m", found, target)
    excluded = {one.variant: one for one in advice.excluded}
    for one in found:
        said = excluded.get(one.variant)
        if one.obstacle:
            assert said is not None
            assert (said.reason, said.misses) == (one.obstacle, ())
        elif said is None:
            assert satisfies(one, target)
        else:
            assert not satisfies(one, target) or not is_usable_at_all(one, target)
            for miss in said.misses:
                assert miss.value == value_of(one, miss.constraint)
                assert miss.value is None or not miss.constraint.is_met(miss.value, target.bounds[miss.constraint])
                assert target.words(miss.constraint) in said.reason
            if said.misses:
                met = set(target.bounds) - {miss.constraint for miss in said.misses}
                assert all(
                    (value := value_of(one, bound)) is not None and bound.is_met(value, target.bounds[bound])
                    for bound in met
                )


@pytest.mark.parametrize("seed", range(8, 12))
def test_the_nearest_variant_of_each_bound_if_nothing_satisfies_the_target(seed: int) -> None:
    for found, target in cases(seed):
        check_the_nearest(found, target)


def check_the_nearest(found: Sequence[Candidate], target: Target) -> None:
    advice = advise("m", found, target)
    if advice.pick is not None:
        assert advice.nearest == ()
        return
    excluded = {one.variant: one for one in advice.excluded}
    considered = [one for one in found if excluded[one.variant].misses]
    for near in advice.nearest:
        known = [one for one in considered if value_of(one, near.constraint) is not None]
        if not known:
            assert near.one is None
            continue
        assert near.one in known
        bounds = {name: bound for name, bound in target.bounds.items() if name is not near.constraint}
        others = Target(**{name.value: bound for name, bound in bounds.items()})
        pool = [one for one in known if satisfies(one, others)] or known
        assert near.one in pool
        values = [value_of(one, near.constraint) or 0.0 for one in pool]
        assert near.value == (min(values) if near.constraint is Constraint.MAX_KLD else max(values))


def ladder() -> list[Candidate]:
    sizes = (("Q8_0", 0.0005, 12.0, 8), ("Q6_K", 0.002, 20.0, 6), ("Q4_K_M", 0.015, 33.0, 4), ("Q2_K", 0.15, 60.0, 2))
    return [candidate(name, kld, speed, size * 10**9) for name, kld, speed, size in sizes]


def test_a_bound_on_speed_leaves_the_lowest_divergence() -> None:
    for speed, name in ((10.0, "Q6_K"), (21.0, "Q4_K_M"), (50.0, "Q2_K")):  # nobody notices Q8_0 beside Q6_K
        assert advise("m", ladder(), Target(min_tps=speed)).variant == name


def test_a_bound_on_the_loss_leaves_the_smallest_file() -> None:
    for kld, name in ((0.0005, "Q8_0"), (0.004, "Q6_K"), (0.02, "Q4_K_M"), (0.5, "Q2_K")):
        assert advise("m", ladder(), Target(max_kld=kld)).variant == name


def test_a_tighter_target_never_gains_a_variant() -> None:
    for first, second in pairwise((5.0, 15.0, 25.0, 40.0, 70.0)):
        wide, tight = (advise("m", ladder(), Target(min_tps=speed)).usable for speed in (first, second))
        assert {one.variant for one in tight} <= {one.variant for one in wide}


def test_nothing_satisfies_it_and_the_words_say_what_is_near() -> None:
    advice = advise("m", ladder(), Target(min_tps=30.0, max_kld=0.001))
    assert advice.reason == (
        "No variant satisfies --min-tps 30 and --max-kld 0.001. Nearest to --min-tps 30: Q8_0 (12.0 tokens/s). "
        "Nearest to --max-kld 0.001: Q4_K_M (KL divergence of 0.015 nats)."
    )


def test_the_terminal_lists_each_other_variant_under_what_it_misses() -> None:
    large = candidate("BF16", 0.0, 3.0, 16 * 10**9, obstacle="does not fit: it needs 8.00 GiB more")
    advice = advise("m", [*ladder(), large, candidate("new", None)], Target(min_tps=15.0, max_kld=0.05))
    assert advice.variant == "Q6_K"
    assert exclusions(advice) == [
        "Excluded by --min-tps 15: Q8_0 (12.0)",
        "Excluded by --max-kld 0.05: Q2_K (0.15), new (not known)",
        "Do not fit: BF16",
        "Also satisfy it: Q4_K_M",
    ]


def test_a_recovery_that_was_not_measured_satisfies_no_bound() -> None:
    found = [candidate("Q4_K_M", recovery=0.96), candidate("Q2_K", size=10**8)]
    advice = advise("m", found, Target(min_recovery=0.95))
    assert advice.variant == "Q4_K_M"
    assert "It keeps 96.0 % of the reference's task score above chance." in advice.reason
    assert advice.why_not("Q2_K") == "may miss --min-recovery 95: no task score is known"


def test_the_json_has_the_target_and_the_bounds_that_each_misses() -> None:
    told = to_json(advise("m", ladder(), Target(min_tps=25.0)), "m", ())
    assert told["target"] == {"min_tps": 25.0}
    assert {one["variant"]: one["misses"] for one in told["excluded"]} == {"Q8_0": ["min_tps"], "Q6_K": ["min_tps"]}
    none = to_json(advise("m", ladder(), Target(min_tps=100.0)), "m", ())
    assert none["variant"] is None
    assert none["nearest"] == [
        {"constraint": "min_tps", "variant": "Q2_K", "kv_type": "f16", "value": 60.0, "also_misses": []}
    ]
    without: Advice = advise("m", ladder())
    assert (to_json(without, "m", ())["target"], to_json(without, "m", ())["nearest"]) == (None, [])
