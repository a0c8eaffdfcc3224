"""The one truth: runs, cells and per-item results in SQLite.

A cell's key is a hash of everything its result depends on, so any run that needs the same cell finds it here.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from converters.errors import InputError

VERSION = 3
_MANY = 500  # values in one question; SQLite's oldest bound is 999
_SCHEMA = """
CREATE TABLE runs (run TEXT PRIMARY KEY, created REAL NOT NULL, plan TEXT NOT NULL);
CREATE TABLE cells (
    key TEXT PRIMARY KEY, status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
    result TEXT, error TEXT, seconds REAL NOT NULL, finished REAL NOT NULL
);
CREATE TABLE items (
    key TEXT NOT NULL REFERENCES cells (key) ON DELETE CASCADE, position INTEGER NOT NULL,
    doc TEXT NOT NULL, value REAL NOT NULL, answer TEXT,
    gold REAL, subject TEXT NOT NULL DEFAULT '', PRIMARY KEY (key, position)
) WITHOUT ROWID;
"""
# What makes a store of an earlier version one of the next
_UPGRADES = {
    1: ("ALTER TABLE items ADD COLUMN gold REAL", "ALTER TABLE items ADD COLUMN subject TEXT"),
    # the subject stood before each document, and beside it where the second version wrote
    2: (
        "ALTER TABLE items RENAME COLUMN subject TO old",
        "ALTER TABLE items ADD COLUMN subject TEXT NOT NULL DEFAULT ''",
        "UPDATE items SET subject = coalesce(old, substr(doc, 1, instr(doc, ' ') - 1))",
        "UPDATE items SET doc = substr(doc, length(subject) + 2)",
        "ALTER TABLE items DROP COLUMN old",
    ),
}


@dataclass(frozen=True)
class Item:
    """One document's result in a task: `doc`, its number and the hashes of document and prompt, proves that two
    variants answered the same prompt.

    `gold` is the right choice's share of the probability of all choices; None where answers are generated.
    `subject` is the sub-task that it belongs to: a subject in a group such as MMLU.
    """

    doc: str
    value: float
    answer: str
    gold: float | None = None
    subject: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: a result, or an error in one line."""

    status: str
    result: dict[str, Any] | None
    error: str | None
    seconds: float


@dataclass(frozen=True)
class StoredRun:
    run: str
    created: float
    plan: dict[str, Any]


class Store:
    """One connection; use it as a context manager. Several processes may have the same file open (WAL)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path}: not a readable store ({error}); move it away or use another --workspace"
            ) from error

    def _prepare(self) -> None:
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            while version in _UPGRADES:
                for statement in _UPGRADES[version]:
                    self._db.execute(statement)
                version += 1
                self._db.execute(f"PRAGMA user_version = {version}")
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise InputError(
                    f"{self.path}: written by another version of bitsweep (store {version}, known {VERSION})"
                )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add_run(self, run: str, plan: dict[str, Any]) -> None:
        """Write a run down, or leave it as it is where it is known."""
        self._db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?)", (run, time.time(), json.dumps(plan)))

    def runs(self) -> list[StoredRun]:
        """All runs, the newest first."""
        rows = self._db.execute("SELECT run, created, plan FROM runs ORDER BY created DESC, run")
        return [StoredRun(run, created, json.loads(plan)) for run, created, plan in rows]

    def put(self, key: str, outcome: Outcome, items: Sequence[Item] = ()) -> None:
        """Write a cell's outcome and its items in one transaction, over what an earlier try left."""
        row = (key, outcome.status, json.dumps(outcome.result), outcome.error, outcome.seconds, time.time())
        with self._transaction():
            self._db.execute("DELETE FROM cells WHERE key = ?", (key,))
            self._db.execute("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?)", row)
            self._db.executemany(
                "INSERT INTO items (key, position, doc, value, answer, gold, subject) VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((key, position, *astuple(item)) for position, item in enumerate(items)),
            )

    def copy(self, key: str, to: str) -> None:
        """Write what is known of a cell down under another key."""
        with self._transaction():
            self._db.execute("DELETE FROM cells WHERE key = ?", (to,))
            for table, columns in (
                ("cells", "status, result, error, seconds, finished"),
                ("items", "position, doc, value, answer, gold, subject"),
            ):
                self._db.execute(
                    f"INSERT INTO {table} (key, {columns}) SELECT ?, {columns} FROM {table} WHERE key = ?", (to, key)
                )

    def outcomes(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes of those of `keys` that are known."""
        found = {}
        for key in keys:
            row = self._db.execute("SELECT status, result, error, seconds FROM cells WHERE key = ?", (key,)).fetchone()
            if row:
                found[key] = Outcome(row[0], json.loads(row[1]), row[2], row[3])
        return found

    def statuses(self, keys: Iterable[str]) -> dict[str, str]:
        """How those of `keys` that are known ended, without reading their results."""
        return dict(self._of(keys, "key, status"))

    def seconds(self, keys: Iterable[str]) -> dict[str, float]:
        """How long those of `keys` that are done took."""
        return {key: seconds for key, seconds, status in self._of(keys, "key, seconds, status") if status == "ok"}

    def _of(self, keys: Iterable[str], columns: str) -> Iterator[Any]:
        """Columns of the cells that are known."""
        wanted = list(keys)
        for start in range(0, len(wanted), _MANY):
            some = wanted[start : start + _MANY]
            marks = ",".join("?" * len(some))
            yield from self._db.execute(f"SELECT {columns} FROM cells WHERE key IN ({marks})", some)

    def items(self, key: str) -> list[Item]:
        """The per-item results of a task cell, in the order of its documents."""
        rows = self._db.execute(
            "SELECT doc, value, answer, gold, subject FROM items WHERE key = ? ORDER BY position", (key,)
        )
        return [Item(*row) for row in rows]
