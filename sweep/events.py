"""The events of a run and its event log, which the screen, JSON output and other processes read."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Event:
    """An event of a run. `cell` is the label "VARIANT/NAME" of a cell; `time` is seconds since 1970. `event` is its
    kind:

    - `following`: another process runs this run already, and its events follow.
    - `started`: `run` (id), `cells` and `todo` (numbers), `pending` (labels of the cells to run), `pid`,
      `predicted` (seconds by label, from earlier runs).
    - `cells_added`: `pending`, further cells to run, which no plan has: speeds that are measured again and further
      rounds of a text, with the cells that make their files again.
    - `cells_dropped`: `dropped`, cells that are not run, because a search has ended.
    - `cell_started`.
    - `cell_progress`: `done`, `total`, and `part`, the sub-task of a group that is running.
    - `cell_done`: `seconds`, and `notes`, lines for people. `same_as`: the label of a cell of another variant that is
      the same measurement; this one ended with it.
    - `cell_failed`, `cell_cancelled`, `cell_skipped`: `error`, why the cell has no whole result (see Ending).
    - `interrupted`; `refused`: `error`, the input was rejected; `done`: how the run ended.
    """

    event: str
    cell: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def to_json(self) -> str:
        row = asdict(self)
        row |= row.pop("data")
        return json.dumps({key: value for key, value in row.items() if value is not None})


class EventLogWriter:
    """Writes the event log of a run: one JSON object per line, flushed at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115  # open as long as the run

    def write(self, event: Event) -> None:
        self._file.write(event.to_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class EventLogReader:
    """Reads an event log that another process writes. Only complete lines are returned.

    When a run is resumed, its log starts again with a new file, which is read from the beginning.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self._inode: int | None = None

    def read(self) -> list[Event]:
        """The events written since the last call."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if self._inode not in (None, status.st_ino) or status.st_size < self.offset:
                self.offset = 0
            self._inode = status.st_ino
            file.seek(self.offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [_event(line) for line in whole.decode("utf-8").splitlines()]


def _event(line: str) -> Event:
    row = json.loads(line)
    kind, when, cell = row.pop("event"), row.pop("time"), row.pop("cell", None)
    return Event(kind, cell, row, when)
