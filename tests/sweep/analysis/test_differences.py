"""The verdicts of a comparison, and its form in JSON."""

from __future__ import annotations

from dataclasses import asdict

from sweep.analysis.differences import Comparison, LossDifference, Side, TaskDifference, TextDifference
from sweep.statistics import PairedDifference


def paired(delta: float) -> PairedDifference:
    return PairedDifference(delta, 0.1, delta - 0.2, delta + 0.2, 0.01, 100)


def task(delta: float, p_holm: float, higher_is_better: bool = True) -> TaskDifference:
    return TaskDifference(
        "Q4", "Q5", "t", "acc", higher_is_better, 0.5, 0.5 + delta, paired(delta), p_holm, 0.1, None, 1, 2, 3
    )


def test_a_difference_is_significant_below_the_level_and_better_in_its_direction() -> None:
    assert [task(0.1, p).significant for p in (0.049, 0.05, 1.0)] == [True, False, False]
    assert [task(delta, 1.0).better for delta in (0.1, 0.0, -0.1)] == [True, False, False]
    assert [task(delta, 1.0, higher_is_better=False).better for delta in (0.1, 0.0, -0.1)] == [False, False, True]


def test_json_has_every_field_and_a_verdict_for_each_difference() -> None:
    tasks = (task(0.1, 0.01), task(0.1, 0.5))
    losses = (LossDifference("Q4", "Q5", "t", True, paired(-0.1), paired(0.0), paired(0.1), 0.06),)
    text = (TextDifference("Q4", "Q5", "perplexity", 9.0, 9.5, paired(0.05), 0.001),)
    found = Comparison(
        Side("a", "m", "BF16"), Side("b", "m", "BF16"), tasks, losses, text, ("a note",), endings=frozenset({"failed"})
    )
    row = found.to_json()
    assert list(row) == ["a", "b", "tasks", "losses", "text", "notes"]
    assert (row["a"], row["notes"]) == (asdict(found.a), ("a note",))
    assert list(row["tasks"]) == [asdict(tasks[0]) | {"real": True}, asdict(tasks[1]) | {"real": False}]
    assert list(row["losses"]) == [asdict(losses[0]) | {"real": False}]
    assert list(row["text"]) == [asdict(text[0]) | {"real": True}]
