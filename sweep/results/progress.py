"""The progress of a run from its events: the state of each cell, the share of the work done, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sweep.endings import EVENTS
from sweep.events import Event
from sweep.jobs.cell import Cell
from sweep.results.cell_state import CellState
from sweep.results.work import Estimate, Work, estimate

ENDINGS = ("done", "interrupted", "refused")


@dataclass
class RunProgress:
    """The state of a run. `status` is "waiting", "running", or one of ENDINGS when the run has ended."""

    cells: dict[str, CellState]
    work: Mapping[str, Work] = field(default_factory=dict, repr=False)
    status: str = "waiting"
    pid: int | None = None
    started: float | None = None
    last: float = 0.0
    error: str | None = None
    share: float = 0.0
    """The share of the work of this start that is done, 0 to 1, without cells of earlier runs. It decreases only when
    cells are added."""
    _extra: frozenset[str] = field(default=frozenset(), repr=False)  # labels of cells that may be added
    _pending: tuple[str, ...] = field(default=(), repr=False)
    _predicted: Mapping[str, float] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cells: Sequence[Cell], extra: Iterable[Cell] = ()) -> RunProgress:
        """The progress of a run with these cells. `extra` are cells that may be added while it runs."""
        more = {cell.label: Work.of(cell) for cell in extra}
        work = {cell.label: Work.of(cell) for cell in cells} | more
        return cls({cell.label: CellState(cell.label) for cell in cells}, work, _extra=frozenset(more))

    def update(self, event: Event) -> None:
        """Update the state with an event. Events of cells that the run does not have are ignored."""
        self.last = event.time
        if event.event == "started":
            self.status, self.started, self.error, self.share = "running", event.time, None, 0.0
            self.pid = event.data.get("pid")
            self._pending = tuple(label for label in event.data["pending"] if label in self.cells)
            self._predicted = event.data.get("predicted", {})
            self.cells = {
                label: CellState(label, "waiting" if label in self._pending else "known")
                for label in self.cells
                if label not in self._extra
            }
        elif event.event == "cells_added":
            added = [label for label in event.data["pending"] if label in self.work]
            self.cells |= {label: CellState(label) for label in added}
            self._pending = tuple(dict.fromkeys((*self._pending, *added)))
            self.share = 0.0
        elif event.event == "cells_dropped":
            gone = set(event.data["dropped"])
            self.cells = {label: cell for label, cell in self.cells.items() if label not in gone}
            self._pending = tuple(label for label in self._pending if label not in gone)
        elif event.event in ENDINGS:
            self.status, self.error = event.event, event.data.get("error")
        elif event.cell in self.cells:
            self.cells[event.cell] = _after(self.cells[event.cell], event)
        self.share = max(self.share, self._estimate(event.time).share)

    @property
    def todo(self) -> int:
        """The number of cells that this start had to run."""
        return len(self._pending)

    @property
    def current(self) -> CellState | None:
        """The running cell that was started last."""
        running = [cell for cell in self.cells.values() if cell.status == "running"]
        return max(running, key=lambda cell: cell.started or 0.0, default=None)

    def seconds_left(self, now: float | None = None) -> float | None:
        """An estimate of the seconds left; None if the run is not running, or if too little is known."""
        if self.status != "running" or self.started is None:
            return None
        now = time.time() if now is None else now
        return self._estimate(now).seconds_left(now - self.started)

    def _estimate(self, now: float) -> Estimate:
        todo = [self.cells[label] for label in self._pending]
        return estimate(todo, self.work, self._predicted, now)


def _after(cell: CellState, event: Event) -> CellState:
    if event.event == "cell_started":
        return replace(cell, status="running", started=event.time, ended=None, done=0, total=0, part="", error=None)
    if event.event == "cell_progress":
        done, total, part = event.data["done"], event.data["total"], event.data.get("part", "")
        return replace(cell, status="running", done=done, total=total, part=part, started=cell.started or event.time)
    if event.event == "cell_done":
        return replace(cell, status="done", seconds=event.data["seconds"], ended=event.time)
    if event.event in EVENTS:
        return replace(cell, status=EVENTS[event.event], error=event.data["error"], ended=event.time)
    return cell
