"""When tasks show, rule out or leave open a loss that matters, against closed forms and simulation."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm

from presets.advice import Tolerance
from sweep.analysis.candidate import TaskLoss
from sweep.analysis.task_evidence import task_evidence
from sweep.record import Record, TaskScore
from sweep.statistics import compare_items


def scored(reference: np.ndarray, own: np.ndarray, chance: float = 0.0) -> list[Record]:
    """A reference and one variant with these answers to one task."""
    found = compare_items(reference, own)
    base = TaskScore("acc", float(reference.mean()), 0.01, reference.size, chance=chance)
    score = replace(
        base, value=float(own.mean()), delta=found.delta, delta_stderr=found.delta_stderr, p_value=found.p_value,
        delta_low=found.low, delta_high=found.high,
    )  # fmt: skip
    return [
        Record("BF16", "gguf", "ok", tasks={"t": base}, reference="BF16"),
        Record("Q4", "gguf", "ok", tasks={"t": score}, reference="BF16"),
    ]


def answers(items: int, lost: int, won: int = 0) -> tuple[np.ndarray, np.ndarray]:
    reference = np.repeat([1.0, 0.0], [items * 7 // 10, items - items * 7 // 10])
    own = reference.copy()
    own[:lost], own[items - won :] = 0.0, 1.0
    return reference, own


def test_no_loss_in_few_items_rules_nothing_out() -> None:
    few = task_evidence(scored(*answers(20, 0)))["Q4"]
    assert few.verdict is TaskLoss.OPEN
    assert few.at_most > 0.05
    many = task_evidence(scored(*answers(1000, 0)))["Q4"]
    assert many.verdict is TaskLoss.RULED_OUT
    assert many.at_most < 0.005


def test_the_interval_is_bonett_and_prices_one_sided_at_95_percent() -> None:
    """With b lost and c won of n, the loss is (b - c) / (n + 2) with McNemar's variance of n + 2 items, one more lost
    and one more won."""
    items, lost, won = 400, 12, 5
    found = task_evidence(scored(*answers(items, lost, won)))["Q4"]
    mean = (lost - won) / (items + 2)
    variance = ((lost + won + 2) / (items + 2) - mean**2) / (items + 2)
    assert found.at_most == pytest.approx(mean + norm.ppf(0.95) * sqrt(variance), rel=1e-3)
    assert found.loss == pytest.approx((lost - won) / items)


def test_a_loss_is_shown_only_if_it_is_significant_and_above_the_tolerance() -> None:
    assert task_evidence(scored(*answers(1000, 15)))["Q4"].verdict is not TaskLoss.SHOWN  # 1.5 points, p < 0.0001
    found = task_evidence(scored(*answers(1000, 30)))["Q4"]
    assert found.verdict is TaskLoss.SHOWN
    assert found.shown == "loses 3.0 ± 0.5 points on t (Holm-corrected p < 0.0001)"
    assert task_evidence(scored(*answers(20, 4)))["Q4"].verdict is TaskLoss.OPEN  # 20 points, p = 0.13


def test_a_tolerance_can_be_a_share_of_the_score_above_chance() -> None:
    records = scored(*answers(1000, 30), chance=0.25)
    found = task_evidence(records, Tolerance(0.1, of_score=True))["Q4"]
    assert found.tolerance == pytest.approx(0.1 * (0.7 - 0.25))
    assert found.verdict is TaskLoss.RULED_OUT


def test_the_number_of_items_that_settles_it_has_a_power_of_80_percent() -> None:
    """Of a variant that loses nothing, with flips as often as in the sample."""
    sample = task_evidence(scored(*answers(200, 8, 8)))["Q4"]
    items = sample.settling_items
    assert items is not None
    expected = (16 + 2) / 202 * ((norm.ppf(0.95) + norm.ppf(0.8)) / 0.02) ** 2
    assert items == pytest.approx(expected, rel=0.1)
    rng, passed = np.random.default_rng(3), 0
    for _ in range(300):
        flips = rng.random(items) < 18 / 202
        signs = np.where(flips, np.where(rng.random(items) < 0.5, 1.0, -1.0), 0.0)
        mean, error = signs.mean(), signs.std() / sqrt(items)
        passed += -mean + norm.ppf(0.95) * error <= 0.02
    assert 0.7 < passed / 300 < 0.9


def test_a_metric_that_is_no_share_of_items_only_shows_losses() -> None:
    records = scored(*answers(100, 0))
    worse = TaskScore("ppl", 12.0, 0.1, 100, 2.0, 0.1, 1e-9, higher_is_better=False, delta_low=1.8, delta_high=2.2)
    base = TaskScore("ppl", 10.0, 0.1, 100, higher_is_better=False)
    both = [replace(records[0], tasks={"p": base}), replace(records[1], tasks={"p": worse})]
    found = task_evidence(both)["Q4"]
    assert found.verdict is TaskLoss.SHOWN
    assert "loses 2.000 ± 0.100 on p" in found.shown
    same = replace(worse, delta=0.01, p_value=0.9, delta_low=-0.2, delta_high=0.2)
    assert task_evidence([both[0], replace(both[1], tasks={"p": same})])["Q4"].verdict is TaskLoss.OPEN


def test_a_single_item_has_no_interval() -> None:
    records = scored(np.array([0.4]), np.array([0.3]))
    assert task_evidence(records)["Q4"].verdict is TaskLoss.OPEN
