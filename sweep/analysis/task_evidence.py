"""What tasks say about a loss that matters: is a loss of more than the tolerance shown, ruled out, or still open?

That no loss is significant does not show that there is none: with 20 items, a loss of 25 points need not be
significant. Therefore a loss is ruled out only by a test for non-inferiority, as in Wellek (2010), "Testing Statistical
Hypotheses of Equivalence and Noninferiority": the upper end of the loss's one-sided 95 % interval must be below the
tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, hypot, inf, isfinite, log10
from statistics import NormalDist, fmean

from presets.advice import Tolerance
from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.candidate import TaskEvidence, TaskLoss
from sweep.record import Record
from sweep.statistics import HALF_INTERVAL

ONE_SIDED = NormalDist().inv_cdf(0.95)
"""From the mean to the end of a one-sided 95 % interval, in standard errors."""
WITH_POWER = ONE_SIDED + NormalDist().inv_cdf(0.8)
"""So many standard errors make up the tolerance if a variant without a loss is to pass the test in 80 % of cases."""


@dataclass(frozen=True)
class _Loss:
    """The loss on one task, as a share of the items, with the middle and the standard error of its interval."""

    test: figures.TaskTest
    middle: float
    stderr: float
    tolerance: float
    items: int


def task_evidence(records: Sequence[Record], tolerance: Tolerance | None = None) -> dict[str, TaskEvidence]:
    """By variant, what the tasks say about its loss. Variants without a comparison are left out.

    A loss is shown by one task if it is significant (Holm-corrected over the sweep) and, as measured, above the
    tolerance, or by all tasks together. It is ruled out for the mean over the tasks whose scores are shares of items. A
    task whose scores are not, such as one that measures a perplexity, only shows losses: any significant one.
    """
    accepted = tolerance or Tolerance.default()
    tests, scales = figures.task_tests(records), figures.task_scales(records)
    found = {}
    for record in records:
        own = [test for (variant, _), test in tests.items() if variant == record.variant]
        if own:
            shares = [
                loss for test in own if scales[test.task] == 100 and (loss := _loss(record, records, test, accepted))
            ]
            others = [test for test in own if scales[test.task] != 100 and test.is_loss()]
            found[record.variant] = _evidence(shares, others, [test.task for test in own])
    return found


def _loss(record: Record, records: Sequence[Record], test: figures.TaskTest, accepted: Tolerance) -> _Loss | None:
    if test.interval is None or not all(map(isfinite, test.interval)):
        return None
    low, high = test.interval
    score, base = record.tasks[test.task], figures.task_reference_of(record)
    reference = next((one.tasks[test.task] for one in records if one.variant == base and test.task in one.tasks), None)
    level = score.value - test.delta if reference is None else reference.value
    return _Loss(
        test, -(low + high) / 2, (high - low) / 2 / HALF_INTERVAL, accepted.points(level, score.chance), score.n
    )


def _evidence(losses: Sequence[_Loss], significant: Sequence[figures.TaskTest], tasks: Sequence[str]) -> TaskEvidence:
    """From the losses on tasks whose scores are shares, and the significant losses on other tasks."""
    shown = [
        (loss.test.adjusted, _shown(loss.test, 100))
        for loss in losses
        if loss.test.is_loss() and -loss.test.delta > loss.tolerance
    ]
    shown += [(test.adjusted, _shown(test, 1)) for test in significant]
    names = tuple(tasks)
    if not losses:
        verdict = TaskLoss.SHOWN if shown else TaskLoss.OPEN
        return TaskEvidence(verdict, 0.0, inf, 0.0, names, 0, None, min(shown)[1] if shown else "")
    count = len(losses)
    loss, tolerance = fmean(-one.test.delta for one in losses), fmean(one.tolerance for one in losses)
    middle, stderr = fmean(one.middle for one in losses), hypot(*(one.stderr for one in losses)) / count
    at_most, at_least = middle + ONE_SIDED * stderr, middle - ONE_SIDED * stderr
    words = min(shown)[1] if shown else ""
    if not words and count > 1 and loss > tolerance and at_least > 0:
        words = f"loses {100 * loss:.1f} ± {100 * stderr:.1f} points on average over {count} tasks"
    verdict = TaskLoss.SHOWN if words else TaskLoss.RULED_OUT if at_most <= tolerance else TaskLoss.OPEN
    items = min(one.items for one in losses)
    return TaskEvidence(verdict, loss, at_most, tolerance, names, items, _settling(losses, tolerance), words)


def _settling(losses: Sequence[_Loss], tolerance: float) -> int | None:
    """The items per task after which a variant without any loss has passed the test in 80 % of cases, rounded up to two
    digits. The variance of an item is that of the items so far; None if no variance or tolerance is known."""
    variance = sum(one.items * one.stderr**2 for one in losses) / len(losses) ** 2
    if not 0 < variance < inf or tolerance <= 0:
        return None
    exact = variance * (WITH_POWER / tolerance) ** 2
    unit = 10 ** max(0, floor(log10(max(1.0, exact))) - 1)
    return ceil(exact / unit) * unit


def _shown(test: figures.TaskTest, scale: int) -> str:
    decimals, unit = (1, " points") if scale == 100 else (3, "")
    error = "" if test.delta_stderr is None else f" ± {test.delta_stderr * scale:.{decimals}f}"
    corrected = f"Holm-corrected p {test.p_relation}"
    return f"loses {abs(test.delta) * scale:.{decimals}f}{error}{unit} on {fmt.plain(test.task)} ({corrected})"


def not_compared(record: Record, tests: Mapping[tuple[str, str], figures.TaskTest]) -> list[str]:
    """The tasks on which other variants were compared with their reference, and this one was not."""
    return [task for task in dict.fromkeys(task for _, task in tests) if (record.variant, task) not in tests]
