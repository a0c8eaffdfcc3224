"""When a measurement over windows may stop: simulated sweeps make at most 5 % false decisions, naive ones many."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from sweep.statistics import ALPHA
from sweep.statistics.stopping import (
    FIRST_LOOK,
    StopRule,
    half_width,
    look_at_least,
    looks,
    order_is_known,
    round_with,
    side,
)

TOTAL = 592  # windows of 512 tokens in WikiText-2's test text
BOUND = 0.02
MEANS = (0.00101, 0.001, 0.004, 0.0196, 0.0204, 0.06, 0.3)  # two of them 2 % from the bound, two 1 % from each other
VARIATION = 0.3


def windows(rng: np.random.Generator, mean: float, cv: float, n: int = TOTAL) -> np.ndarray:
    """Lognormal divergences."""
    sigma = np.sqrt(np.log1p(cv**2))
    return mean * np.exp(sigma * rng.standard_normal(n) - sigma**2 / 2)


def stop(rule: StopRule, values: np.ndarray, total: int = TOTAL) -> int:
    return next(look for look in looks(total) if rule.is_met(values[:look], total))


def test_the_looks_double_and_the_last_one_has_everything() -> None:
    assert looks(592) == (32, 64, 128, 256, 512, 592)
    assert looks(64) == (32, 64)
    assert (looks(32), looks(7)) == ((32,), (7,))
    assert [look_at_least(count, 100) for count in (1, 33, 64, 65, 1000)] == [32, 64, 64, 100, 100]
    assert [round_with(count) for count in (7, 32, 33, 64, 592)] == [0, 0, 1, 1, 5]
    assert all(FIRST_LOOK << round_with(look) >= look for look in looks(592))


class Outcome(NamedTuple):
    false: bool
    windows: int


def one_sweep(rng: np.random.Generator) -> Outcome:
    """Variants with windows of equal difficulty. The truth is what all windows say."""
    rule = StopRule(bounds=(BOUND,), decisions=2 * len(MEANS) - 1)
    difficulty = windows(rng, 1.0, 0.2)
    rows = [mean * difficulty * windows(rng, 1.0, 0.2) for mean in MEANS]
    stops = [stop(rule, row) for row in rows]
    alpha, false = rule.alpha(TOTAL), False
    for row, at in zip(rows, stops, strict=True):
        decided = side(row[:at], BOUND, alpha)
        false |= at < TOTAL and decided != np.sign(np.log(row.mean() / BOUND))
    for (a, b), shared in zip(itertools.pairwise(rows), map(min, itertools.pairwise(stops)), strict=True):
        known = next(
            n for n in looks(TOTAL) if n >= shared and (n == TOTAL or order_is_known(a[:n], b[:n], alpha, 0.0))
        )
        false |= bool((a[:known].mean() < b[:known].mean()) != (a.mean() < b.mean()))
    return Outcome(bool(false), sum(stops))


@pytest.mark.parametrize("sweeps", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_sweep_makes_a_false_decision_in_at_most_5_percent_and_reads_a_fraction(sweeps: int) -> None:
    rng = np.random.default_rng(1)
    outcomes = [one_sweep(rng) for _ in range(sweeps)]
    assert np.mean([one.false for one in outcomes]) <= ALPHA
    assert np.mean([one.windows for one in outcomes]) < 0.5 * TOTAL * len(MEANS)  # most are far from the bound


def test_looking_naively_is_wrong_far_more_often() -> None:
    """The negative control: the interval of one look, used after every window."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(150):
        row = windows(rng, BOUND, VARIATION)
        wrong += any(side(row[:n], BOUND, ALPHA) != 0 for n in range(FIRST_LOOK, TOTAL, 4))
    assert wrong / 150 > 0.25


@pytest.mark.parametrize("share", [0.05, 0.02])
def test_the_interval_at_the_stop_covers_the_mean_almost_as_often_as_it_says(share: float) -> None:
    rng, rule, total = np.random.default_rng(3), StopRule(precision=share), 1 << 14
    covered = []
    for _ in range(400):
        row = windows(rng, BOUND, VARIATION, total)
        at = stop(rule, row, total)
        assert half_width(row[:at], ALPHA) <= share
        covered.append(abs(row[:at].mean() / BOUND - 1) <= half_width(row[:at], ALPHA))
    assert np.mean(covered) >= 0.93 - 2 * np.sqrt(0.95 * 0.05 / 400)


def test_windows_that_vary_much_are_all_measured() -> None:
    rng = np.random.default_rng(4)
    row = windows(rng, BOUND / 10, 1.2)
    assert not StopRule(bounds=(BOUND,)).is_met(row[:256], TOTAL)
    assert StopRule(bounds=(BOUND,)).next_look(row[:32], TOTAL) == 64
    assert StopRule(bounds=(BOUND,)).is_met(row, TOTAL)


def test_the_next_look_is_the_one_that_is_probably_enough() -> None:
    rng = np.random.default_rng(5)
    rule = StopRule(precision=0.02)
    expected = (1.96 * VARIATION / 0.02) ** 2  # 864 windows
    first = windows(rng, BOUND, VARIATION, 1 << 14)[:FIRST_LOOK]
    assert rule.next_look(first, 1 << 14) in (512, 1024, 2048)
    assert rule.next_look(first, 300) == 300
    assert 512 < expected < 1024
    assert StopRule(bounds=(BOUND,)).next_look(first * BOUND / first.mean(), TOTAL) == TOTAL  # exactly on the bound


def test_equal_values_need_no_more_windows() -> None:
    zeros = np.zeros(32)
    rule = StopRule(0.05, (BOUND,), 3)
    assert rule.is_met(zeros, TOTAL)
    assert side(zeros, BOUND, 0.01) == -1
    assert order_is_known(zeros, zeros, 0.01, 0.05)


def test_a_difference_that_is_too_small_to_matter_is_not_pursued() -> None:
    rng = np.random.default_rng(6)
    a = windows(rng, 0.001, 0.2, 64)
    b = a + 1e-5 * rng.standard_normal(64)
    assert not order_is_known(a, b, 0.01, 0.0)
    assert order_is_known(a, b, 0.01, 0.05)  # they differ by less than 5 %
    assert order_is_known(a, b, 0.01, 0.0, unnoticeable=0.004)
