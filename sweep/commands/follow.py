"""Watches a run from another process, through its event log, its store and its logs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from converters.errors import InputError
from sweep import format as fmt
from sweep.events import EventLogReader
from sweep.execution.control import pause_requested
from sweep.execution.logs import log_name, log_path
from sweep.execution.worker_memory import resident_bytes
from sweep.jobs.cell import Cell
from sweep.jobs.speed import SpeedResult
from sweep.results.cell_state import CellState
from sweep.results.history import find_run
from sweep.results.later_cells import possible_cells
from sweep.results.plan import Plan
from sweep.results.progress import RunProgress
from sweep.results.store import Store
from sweep.workspace import Workspace, run_lock

QUIET = 1.0  # seconds without an event before checking whether the process is alive
MEMORY_EVERY = 1.0  # seconds
LOG_TAIL = 24_000  # bytes of a log that are shown


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment.

    `added` are cells that the plan does not have: they measure a speed again. `figures` holds the most important figure
    of finished cells by label. `died`: the run's process ended before the run. `resident_bytes` is the memory of the
    running worker, `predicted_bytes` the prediction for its model and context.
    """

    plan: Plan
    progress: RunProgress
    added: tuple[Cell, ...] = ()
    figures: dict[str, str] = field(default_factory=dict)
    died: bool = False
    pausing: bool = False
    resident_bytes: int | None = None
    predicted_bytes: int | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (*self.plan.cells, *self.added)

    @property
    def is_running(self) -> bool:
        return self.progress.status == "running" and not self.died

    def state_of(self, cell: Cell) -> CellState:
        return self.progress.cells[cell.label]


class Follower:
    """Reads what has happened in a run since the last `look`. Only one thread at a time may use it."""

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.plan = find_run(workspace, run)
        self.directory = workspace.run(self.plan.run)
        self._workspace = workspace
        self._reader = EventLogReader(self.directory / "events.jsonl")
        self._later = {cell.label: cell for cell in possible_cells(self.plan)}
        self._progress = RunProgress.of(self.plan.cells, self._later.values())
        self._cells = {cell.label: cell for cell in self.plan.cells} | self._later
        self._figures: dict[str, str] = {}
        self._predicted: dict[str, int] = {}
        self._resident: tuple[float, int | None] = (0.0, None)
        self._read_known()

    def look(self) -> Snapshot:
        """The present state of the run. Raises InputError if its event log or the store cannot be read."""
        try:
            events = self._reader.read()
        except (ValueError, KeyError, OSError) as error:
            raise InputError(f"{self._reader.path}: this event log cannot be read ({error})") from error
        for event in events:
            self._progress.update(event)
        if any(event.event == "started" for event in events):
            self._figures.clear()
            self._read_known()
        done = [event.cell for event in events if event.event == "cell_done" and event.cell in self._cells]
        if done:
            self._read([self._cells[label] for label in done if label is not None])
        progress = replace(self._progress, cells=dict(self._progress.cells))
        current = progress.current
        return Snapshot(
            plan=self.plan,
            progress=progress,
            added=tuple(self._cells[label] for label in progress.cells if label in self._later),
            figures=dict(self._figures),
            died=self._has_died(),
            pausing=pause_requested(self.directory),
            resident_bytes=self._memory(progress),
            predicted_bytes=self._predicted.get(self._cells[current.label].variant) if current is not None else None,
        )

    def _memory(self, progress: RunProgress) -> int | None:
        """The memory of the running worker. It is read at most once per second, because psutil looks at all
        processes."""
        if progress.status != "running" or progress.pid is None:
            return None
        read_at, memory = self._resident
        if time.monotonic() - read_at > MEMORY_EVERY:
            memory = resident_bytes(progress.pid)
            self._resident = time.monotonic(), memory
        return memory

    def _has_died(self) -> bool:
        if self._progress.status != "running" or time.time() - self._progress.last < QUIET:
            return False
        with run_lock(self.directory) as free:
            return free

    def _read_known(self) -> None:
        self._read(self.plan.cells)

    def _read(self, cells: list[Cell] | tuple[Cell, ...]) -> None:
        with Store(self._workspace.database) as store:
            outcomes = store.outcomes(cell.key for cell in cells)
        for cell in cells:
            outcome = outcomes.get(cell.key)
            result = None if outcome is None else outcome.result(cell, self.plan.run)
            if result is not None:
                self._figures[cell.label] = result.summary
                if isinstance(result, SpeedResult):
                    self._predicted[cell.variant] = result.memory.predicted_bytes or 0


def log_of(directory: Path, cell: Cell) -> Path:
    """The cell's log, which it shares with the other cells of its batch."""
    return log_path(directory, log_name(cell))


def tail(path: Path) -> str:
    """The last part of a log, without control characters."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(fmt.plain(line) for line in lines)
