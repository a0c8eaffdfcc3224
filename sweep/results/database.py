"""An SQLite file that several processes use. Its errors become a message that says what is wrong and what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from converters.errors import InputError

PATIENCE = 30.0  # seconds to wait for a lock. A process of bitsweep holds one for milliseconds.


class Database:
    """A connection. Each method raises InputError if the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement; returns all its rows."""
        with self._errors():
            return self._connection.execute(sql, values).fetchall()

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        with self._errors():
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside are done, or none of them if there is an exception."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself ends it after some errors, such as a full disk
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def add_function(self, name: str, arguments: int, function: Any) -> None:
        self._connection.create_function(name, arguments, function, deterministic=True)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # an error of the caller, not of the file
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path}: {self._message(error)}") from error

    def _message(self, error: sqlite3.DatabaseError) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details in the higher bits
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            holders = ", ".join(processes_that_opened(self.path))
            return (
                f"another process has locked this store for {PATIENCE:.0f} s"
                f"{f' (it is open in {holders})' if holders else ''}; wait until that process ends, or end it"
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return f"this store cannot be written ({error}); free the disk or use another --workspace"
        return f"this file cannot be read as a store ({error}); move it away or use another --workspace"


def processes_that_opened(path: Path) -> list[str]:
    """The other processes, of those that this user may look at, which have the file open: name and number."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(file.path == str(path.resolve()) for file in process.open_files()):
                found.append(f"{process.name()}, process {process.pid}")
        except (psutil.Error, OSError):  # it has ended, or belongs to another user
            continue
    return found
