"""A run watched from outside, through its event log, its store and its logs; whoever runs it need not know."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from converters.errors import InputError
from sweep import format as fmt
from sweep.events import Reader
from sweep.execution.control import pause_is_asked
from sweep.execution.live import resident_bytes
from sweep.execution.logs import log_name, log_path
from sweep.jobs.cell import Cell
from sweep.jobs.speed import SpeedResult
from sweep.results.history import find_run
from sweep.results.plan import Plan
from sweep.results.progress import RunProgress
from sweep.results.store import Store
from sweep.workspace import Workspace, run_lock

QUIET = 1.0  # seconds without an event, after which it is worth a look whether the process is there
MEMORY_EVERY = 1.0  # seconds
LOG_TAIL = 24_000  # bytes of a log that are shown


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment. `figures` are what finished cells found, by label; `died`: its process is gone halfway.

    `resident_bytes` is of the worker at work, `predicted_bytes` what llama.cpp predicts of its model and context.
    """

    plan: Plan
    progress: RunProgress
    figures: dict[str, str] = field(default_factory=dict)
    died: bool = False
    pausing: bool = False
    resident_bytes: int | None = None
    predicted_bytes: int | None = None

    @property
    def is_on(self) -> bool:
        return self.progress.status == "running" and not self.died


class Follower:
    """Reads what is new of a run at each `look`. Not for several threads at once."""

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.plan = find_run(workspace, run)
        self.directory = workspace.run(self.plan.run)
        self._workspace = workspace
        self._reader = Reader(self.directory / "events.jsonl")
        self._progress = RunProgress.of(self.plan.cells)
        self._cells = {cell.label: cell for cell in self.plan.cells}
        self._figures: dict[str, str] = {}
        self._predicted: dict[str, int] = {}
        self._resident: tuple[float, int | None] = (0.0, None)
        self._read_known()

    def look(self) -> Snapshot:
        """Where the run stands now. Raises InputError where its log or the store cannot be read."""
        try:
            events = self._reader.read()
        except (ValueError, KeyError, OSError) as error:
            raise InputError(f"{self._reader.path}: not a readable event log ({error})") from error
        for event in events:
            self._progress.take(event)
        if any(event.event == "started" for event in events):
            self._figures.clear()
            self._read_known()
        done = [event.cell for event in events if event.event == "cell_done" and event.cell in self._cells]
        if done:
            self._read([self._cells[label] for label in done if label is not None])
        progress = replace(self._progress, cells=dict(self._progress.cells))
        at = progress.current
        return Snapshot(
            plan=self.plan,
            progress=progress,
            figures=dict(self._figures),
            died=self._has_died(),
            pausing=pause_is_asked(self.directory),
            resident_bytes=self._memory(progress),
            predicted_bytes=self._predicted.get(self._cells[at.label].variant) if at is not None else None,
        )

    def _memory(self, progress: RunProgress) -> int | None:
        """Asked of the system once a second at most: it goes through all processes for it."""
        if progress.status != "running" or progress.pid is None:
            return None
        asked, found = self._resident
        if time.monotonic() - asked > MEMORY_EVERY:
            found = resident_bytes(progress.pid)
            self._resident = time.monotonic(), found
        return found

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
            found = None if outcome is None else outcome.result(cell.kind)
            if found is not None:
                self._figures[cell.label] = found.summary
                if isinstance(found, SpeedResult):
                    self._predicted[cell.variant] = found.memory.predicted_bytes or 0


def log_of(directory: Path, cell: Cell) -> Path:
    """The file that takes the native messages of the process which did the cell."""
    return log_path(directory, log_name(cell))


def tail(path: Path) -> str:
    """The end of a log, as one may print it."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(fmt.plain(line) for line in lines)
