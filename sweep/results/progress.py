"""The progress of a run, computed from its events: the state of each cell, the share done, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sweep.endings import EVENTS, Ending
from sweep.events import Event
from sweep.jobs.cell import Cell

ENDINGS = ("done", "interrupted", "refused")


@dataclass(frozen=True)
class CellState:
    """The state of a cell. `status` is "waiting", "known" (done in an earlier run), "running", "done" or an Ending.

    `weight` is the cell's rough share of the run's time: it moves the progress bar and gives the estimate of the time
    left. `started` is seconds since 1970, `seconds` the duration.
    """

    label: str
    weight: float = 1.0
    status: str = "waiting"
    done: int = 0
    total: int = 0
    part: str = ""
    started: float | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ("done", "known", *Ending)

    @property
    def share(self) -> float:
        """The share of the cell that is done, 0 to 1."""
        if self.has_ended:
            return 1.0
        return self.done / self.total if self.total else 0.0


@dataclass
class RunProgress:
    """The state of a run. `status` is "waiting", "running", or one of ENDINGS when the run has ended."""

    cells: dict[str, CellState]
    status: str = "waiting"
    pid: int | None = None
    started: float | None = None
    last: float = 0.0
    error: str | None = None
    _pending: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> RunProgress:
        return cls({cell.label: CellState(cell.label, cell.job.weight) for cell in cells})

    def update(self, event: Event) -> None:
        """Update the state with an event. Events of cells that the run does not have are ignored."""
        self.last = event.time
        if event.event == "started":
            self.status, self.started, self.error = "running", event.time, None
            self.pid = event.data.get("pid")
            self._pending = tuple(label for label in event.data["pending"] if label in self.cells)
            for label, cell in self.cells.items():
                status = "waiting" if label in self._pending else "known"
                self.cells[label] = CellState(label, cell.weight, status)
        elif event.event in ENDINGS:
            self.status, self.error = event.event, event.data.get("error")
        elif event.cell in self.cells:
            self.cells[event.cell] = _after(self.cells[event.cell], event)

    @property
    def current(self) -> CellState | None:
        """The running cell that was started last."""
        running = [cell for cell in self.cells.values() if cell.status == "running"]
        return max(running, key=lambda cell: cell.started or 0.0, default=None)

    @property
    def share(self) -> float:
        """The share of the run's cells that is done, 0 to 1, by their weights. Cells of earlier runs do not count."""
        todo = [self.cells[label] for label in self._pending]
        total = sum(cell.weight for cell in todo)
        return sum(cell.weight * cell.share for cell in todo) / total if total else 1.0

    def seconds_left(self, now: float | None = None) -> float | None:
        """An estimate of the seconds left, from the time that the share done so far has taken.

        None before 2 % are done, and if the run is not running.
        """
        if self.status != "running" or self.started is None or self.share < 0.02:
            return None
        elapsed = (time.time() if now is None else now) - self.started
        return elapsed * (1.0 - self.share) / self.share


def _after(cell: CellState, event: Event) -> CellState:
    if event.event == "cell_started":
        return replace(cell, status="running", started=event.time, done=0, total=0, part="", error=None)
    if event.event == "cell_progress":
        done, total, part = event.data["done"], event.data["total"], event.data.get("part", "")
        return replace(cell, status="running", done=done, total=total, part=part, started=cell.started or event.time)
    if event.event == "cell_done":
        return replace(cell, status="done", seconds=event.data["seconds"])
    if event.event in EVENTS:
        return replace(cell, status=EVENTS[event.event], error=event.data["error"])
    return cell
