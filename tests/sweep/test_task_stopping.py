"""When the comparison over a task's items may stop: simulated sweeps find the losses that all items find, and under the
null hypothesis mark no more than they do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sweep.statistics import ALPHA, holm, mcnemar
from sweep.statistics.paired import sign_flip_test
from sweep.statistics.task_stopping import TaskEnding, TaskStopRule, stratified_order, task_looks

ITEMS = (400, 300, 200, 500, 150)  # of five tasks
# The probabilities that an item is lost and won, of seven variants: without a loss, with losses of 1 to 12 points
CHANGES = ((0.01, 0.01), (0.02, 0.02), (0.05, 0.05), (0.05, 0.04), (0.07, 0.04), (0.1, 0.04), (0.16, 0.04))
NULL = ((0.03, 0.03),) * 7


def test_the_looks_are_every_eighth_and_at_least_32_items_apart() -> None:
    assert task_looks(1000) == (125, 250, 375, 500, 625, 750, 875, 1000)
    assert task_looks(100) == (32, 64, 96, 100)
    assert (task_looks(32), task_looks(20)) == ((32,), (20,))


def test_the_order_is_random_stratified_and_the_same_for_the_same_seed() -> None:
    strata = ["small"] * 6 + ["large"] * 94 + ["one"]
    order = stratified_order(strata, seed=5)
    assert sorted(order) == list(range(101))
    assert order == stratified_order(strata, seed=5) != stratified_order(strata, seed=6)
    assert {strata[i] for i in order[:3]} == {"small", "large", "one"}
    assert sum(strata[i] == "small" for i in order[:51]) in (3, 4)  # half of them
    first = [stratified_order(["a"] * 50, seed)[0] for seed in range(300)]
    assert len(set(first)) > 45  # any item may be the first


@dataclass
class Sweep:
    stopped: list[float]  # p values
    full: list[float]
    saved: float

    def losses(self, p: list[float]) -> list[bool]:
        return [bool(one < ALPHA) for one in holm(p)]


def simulated(rng: np.random.Generator, changes: tuple[tuple[float, float], ...]) -> Sweep:
    rule = TaskStopRule(len(changes) * len(ITEMS))
    sweep, answered = Sweep([], [], 0.0), 0
    for lost, won in changes:
        for total in ITEMS:
            row = rng.choice((-1.0, 1.0, 0.0), total, p=(lost, won, 1 - lost - won))
            p = mcnemar(row < 0, row > 0)
            sweep.full.append(p)
            look, ending = next((n, e) for n in task_looks(total) if (e := rule.ending(row[:n], None, total)))
            answered += look
            sweep.stopped.append({TaskEnding.NO_LOSS: 1.0, TaskEnding.LOSS: rule.level}.get(ending, p))
    sweep.saved = 1 - answered / (len(changes) * sum(ITEMS))
    return sweep


@pytest.mark.parametrize("sweeps", [15, pytest.param(2000, marks=pytest.mark.release)])
def test_nearly_all_verdicts_are_those_of_all_items_and_many_items_are_saved(sweeps: int) -> None:
    rng = np.random.default_rng(0)
    found = [simulated(rng, CHANGES) for _ in range(sweeps)]
    other = [a != b for one in found for a, b in zip(one.losses(one.stopped), one.losses(one.full), strict=True)]
    assert np.mean(other) <= 0.02
    assert np.mean([one.saved for one in found]) >= 0.25
    assert sum(sum(one.losses(one.stopped)) for one in found) >= 0.95 * sum(sum(one.losses(one.full)) for one in found)


@pytest.mark.parametrize("sweeps", [15, pytest.param(2000, marks=pytest.mark.release)])
def test_without_any_loss_no_more_is_marked_than_with_all_items(sweeps: int) -> None:
    rng = np.random.default_rng(1)
    found = [simulated(rng, NULL) for _ in range(sweeps)]
    assert np.mean([any(one.losses(one.stopped)) for one in found]) <= max(
        0.01, np.mean([any(one.losses(one.full)) for one in found])
    )
    assert np.mean([one.saved for one in found]) >= 0.4


def test_looking_at_the_plain_test_marks_far_more() -> None:
    """The negative control: a comparison ends when the test of the items so far is significant."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(300):
        row = rng.choice((-1.0, 1.0), 400)  # only items that changed
        found.append(any(mcnemar(row[:n] < 0, row[:n] > 0) <= ALPHA for n in task_looks(400)))
    assert np.mean(found) > 2 * ALPHA


def test_what_is_a_loss_early_is_one_in_the_end_whatever_follows() -> None:
    rule = TaskStopRule(10)
    row = np.array([-1.0] * 150 + [0.0] * 350)
    assert rule.ending(row, None, 1000) is TaskEnding.LOSS
    assert rule.ending(-row, None, 1000) is TaskEnding.NO_LOSS  # it gains
    assert rule.ending(row, None, 500) is TaskEnding.ALL_ITEMS
    assert rule.ending(row[145:195], None, 1000) is None  # five losses of fifty items: not known yet


def test_scores_that_are_not_0_or_1_are_measured_in_full() -> None:
    assert TaskStopRule().ending(np.full(100, 0.5), None, 800) is None


def test_with_clusters_the_test_that_flips_clusters_decides() -> None:
    """Ten subjects, and all losses in one: independent items would be a loss for certain, these are not."""
    subjects = [f"s{i % 10}" for i in range(400)]
    row = np.array([-1.0 if subject == "s0" else 0.0 for subject in subjects[:300]])
    rule = TaskStopRule(2)
    assert rule.ending(row, None, 400) is TaskEnding.LOSS
    assert rule.ending(row, subjects, 400) is None
    assert sign_flip_test(np.pad(row, (0, 100)), subjects) > ALPHA
    everywhere = np.array([-1.0 if i % 20 < 10 else 0.0 for i in range(300)])
    assert rule.ending(everywhere, subjects, 400) is None  # a loss, which only all items show
    assert rule.ending(np.abs(everywhere), subjects, 400) is TaskEnding.NO_LOSS
