"""What happens during a run, as a stream: the log that screens, JSON output and attached readers all follow."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Event:
    """One thing that happened. `event` is its kind:

    `following`, `started` (run, cells, todo, pending, pid), `cell_started`, `cell_progress` (done, total, part: the
    sub-task of a group), `cell_done` (seconds, notes: lines for people), `cell_failed` (error), `interrupted`,
    `refused` (error), `done`. `cell` is "VARIANT/NAME".
    """

    event: str
    cell: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def to_json(self) -> str:
        row = asdict(self)
        row |= row.pop("data")
        return json.dumps({key: value for key, value in row.items() if value is not None})


class Log:
    """The event log of a run: a JSON object a line, appended and flushed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115  # open as long as the run

    def write(self, event: Event) -> None:
        self._file.write(event.to_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Reader:
    """Follows a log that another process writes. A line is given once it is whole.

    A run that goes on begins its log anew: then it is read from its beginning.
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
            found = os.fstat(file.fileno())
            if self._inode not in (None, found.st_ino) or found.st_size < self.offset:
                self.offset = 0
            self._inode = found.st_ino
            file.seek(self.offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [_event(line) for line in whole.decode("utf-8").splitlines()]


def _event(line: str) -> Event:
    row = json.loads(line)
    kind, when, cell = row.pop("event"), row.pop("time"), row.pop("cell", None)
    return Event(kind, cell, row, when)
