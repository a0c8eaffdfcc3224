"""Estimates how much of a run's work is done and the time left, from what its cells took so far.

A cell's seconds are expected to be, in this order:

1. those per work unit of the cells of its group that this run has measured;
2. the prediction from earlier runs, times how much slower this run is than predicted;
3. its weight times the seconds per weight that this run has measured, of cells of its kind or else of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweep.jobs.cell import Cell
from sweep.methods.registry import method
from sweep.results.cell_state import CellState

KNOWN_ENOUGH = 0.02  # the share of the work after which the time left is estimated without predictions
TRUST = 0.05  # the share of the predicted time that must pass before a deviation from it counts half
MEASURABLE = 0.1  # the share of a running cell after which its speed counts
MOST_WITHOUT_REPORT = 0.9  # the largest share of a running cell that is assumed if it reports none


@dataclass(frozen=True)
class Work:
    """The work of a cell. Cells of the same group take about the same time per unit. `weight`: see StoredJob. Cells of
    a batch share their time, so the speed of a running one is unknown."""

    group: tuple[str, ...]
    kind: str
    units: int
    weight: float
    is_batched: bool

    @classmethod
    def of(cls, cell: Cell) -> Work:
        job = cell.job
        return cls(group_of(cell), cell.kind, job.work_units, job.weight, job.batch_key is not None)


def group_of(cell: Cell) -> tuple[str, ...]:
    """Cells of the same group take about the same time per work unit."""
    return cell.kind, method(cell.variant).kind, cell.name, cell.job.timing_group


@dataclass(frozen=True)
class Estimate:
    """The seconds of work that are done and left. `is_predicted`: all that is left was measured before."""

    done: float
    left: float
    is_predicted: bool

    @property
    def share(self) -> float:
        return self.done / (self.done + self.left) if self.left > 0.0 else 1.0

    def seconds_left(self, elapsed: float) -> float | None:
        """The time left, if `done` took `elapsed` seconds. None if too little is known."""
        if not self.is_predicted and self.share < KNOWN_ENOUGH:
            return None
        assumed = TRUST * (self.done + self.left) if self.is_predicted else 0.0
        pace = (elapsed + assumed) / (self.done + assumed) if self.done + assumed > 0.0 else 1.0
        return self.left * pace


@dataclass
class _Ratio:
    """Seconds that were measured, and the amount of work that took them."""

    seconds: float = 0.0
    amount: float = 0.0

    def add(self, seconds: float, amount: float) -> None:
        self.seconds, self.amount = self.seconds + seconds, self.amount + amount

    def per_unit(self) -> float | None:
        return self.seconds / self.amount if self.amount else None


@dataclass
class _Measured:
    """What the cells of a run took so far. `weights` has the seconds per weight of each kind, and of all as ""."""

    predicted: Mapping[str, float]
    groups: dict[tuple[str, ...], _Ratio] = field(default_factory=lambda: defaultdict(_Ratio))
    weights: dict[str, _Ratio] = field(default_factory=lambda: defaultdict(_Ratio))
    deviation: _Ratio = field(default_factory=_Ratio)

    def add(self, label: str, work: Work, seconds: float) -> None:
        self.groups[work.group].add(seconds, work.units)
        for kind in (work.kind, ""):
            self.weights[kind].add(seconds, work.weight)
        if label in self.predicted:
            self.deviation.add(seconds, self.predicted[label])

    def expected(self, label: str, work: Work) -> tuple[float, bool]:
        """The seconds that a cell is expected to take, and whether this is more than a guess from its weight."""
        rate = self.groups[work.group].per_unit()
        if rate is not None:
            return rate * work.units, True
        if label in self.predicted:
            return self.predicted[label] * (self.deviation.per_unit() or 1.0), True
        return work.weight * (self.weights[work.kind].per_unit() or self.weights[""].per_unit() or 1.0), False

    def expected_of_running(self, cell: CellState, work: Work, spent: float) -> float:
        """The seconds that a running cell will take: the more of it is done, the more its own speed counts."""
        if self.weights[""].amount == 0.0 and cell.label not in self.predicted:
            return spent / cell.share
        return (1.0 - cell.share) * self.expected(cell.label, work)[0] + spent


def estimate(
    cells: Sequence[CellState], work: Mapping[str, Work], predicted: Mapping[str, float], now: float
) -> Estimate:
    """The work of these cells at the time `now`. `predicted` are seconds by label, where they are known."""
    measured = _Measured(predicted)
    for cell in cells:
        if cell.status == "done" and cell.seconds is not None:
            measured.add(cell.label, work[cell.label], cell.seconds)
    spent = {
        cell.label: now - cell.started
        for cell in cells
        if cell.status == "running" and cell.started is not None and not work[cell.label].is_batched
    }
    reporting = [cell for cell in cells if cell.label in spent and cell.share >= MEASURABLE]
    speeds = {cell.label: measured.expected_of_running(cell, work[cell.label], spent[cell.label]) for cell in reporting}
    for label, seconds in speeds.items():
        measured.add(label, work[label], seconds)
    done = left = 0.0
    is_predicted = True
    for cell in cells:
        one = work[cell.label]
        if cell.has_ended:
            done += _seconds_of_ended(cell, one)
            continue
        seconds, is_known = measured.expected(cell.label, one)
        share = cell.share
        if cell.label in speeds:
            seconds = speeds[cell.label]
        elif cell.label in spent and is_known and seconds > 0.0 and share == 0.0:  # it does not report its progress
            share = min(spent[cell.label] / seconds, MOST_WITHOUT_REPORT)
        done += share * seconds
        left += (1.0 - share) * seconds
        is_predicted = is_predicted and is_known
    return Estimate(done, left, is_predicted)


def _seconds_of_ended(cell: CellState, work: Work) -> float:
    """The seconds that an ended cell took. Those of a batch share them, so they are not known if it has no result."""
    if cell.seconds is not None:
        return cell.seconds
    if cell.started is None or cell.ended is None or work.is_batched:
        return 0.0
    return cell.ended - cell.started
