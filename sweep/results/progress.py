"""Where a run stands, put together from its events: the state of each cell, how much is done, how long it may take."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sweep.events import Event
from sweep.jobs.cell import Cell

ENDINGS = ("done", "interrupted", "refused")


@dataclass(frozen=True)
class CellState:
    """`status` is "waiting", "known" (from an earlier run), "running", "done" or "failed"; times in seconds. `weight`
    is a rough share of the run's time, to make a bar move evenly and to guess the time left."""

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
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        if self.status in ("done", "failed", "known"):
            return 1.0
        return self.done / self.total if self.total else 0.0


@dataclass
class RunProgress:
    """The state of a run of `cells`. `status` is "waiting", "running", or how it ended: one of ENDINGS."""

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

    def take(self, event: Event) -> None:
        """Let an event happen. Cells that the run does not have are passed over."""
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
        """The cell at work that was begun last."""
        running = [cell for cell in self.cells.values() if cell.status == "running"]
        return max(running, key=lambda cell: cell.started or 0.0, default=None)

    @property
    def share(self) -> float:
        """How much of what was to be done is, 0 to 1, by their weights."""
        todo = [self.cells[label] for label in self._pending]
        total = sum(cell.weight for cell in todo)
        return sum(cell.weight * cell.share for cell in todo) / total if total else 1.0

    def seconds_left(self, now: float | None = None) -> float | None:
        """A guess by what the share done so far has taken; None before there is any, and of a run that is over."""
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
    if event.event == "cell_failed":
        return replace(cell, status="failed", error=event.data["error"])
    return cell
