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
from sweep.items import Item
from sweep.jobs import wire
from sweep.jobs.base import Result
from sweep.jobs.settings import Where

VERSION = 4
_MANY = 500  # values in one question; SQLite's oldest bound is 999
_SCHEMA = """
CREATE TABLE runs (run TEXT PRIMARY KEY, created REAL NOT NULL, plan TEXT NOT NULL);
CREATE TABLE cells (
    key TEXT PRIMARY KEY, status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
    result TEXT, error TEXT, seconds REAL NOT NULL, finished REAL NOT NULL, place TEXT
);
CREATE TABLE items (
    key TEXT NOT NULL REFERENCES cells (key) ON DELETE CASCADE, position INTEGER NOT NULL,
    doc_id INTEGER NOT NULL, doc_hash TEXT NOT NULL, prompt_hash TEXT NOT NULL, value REAL NOT NULL,
    answer TEXT NOT NULL, gold REAL, subject TEXT NOT NULL DEFAULT '', PRIMARY KEY (key, position)
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
    # `doc` was "NUMBER HASH HASH"; where it was something else, that stands for both hashes
    3: (
        "ALTER TABLE cells ADD COLUMN place TEXT",
        "ALTER TABLE items RENAME TO old_items",
        """CREATE TABLE items (
            key TEXT NOT NULL REFERENCES cells (key) ON DELETE CASCADE, position INTEGER NOT NULL,
            doc_id INTEGER NOT NULL, doc_hash TEXT NOT NULL, prompt_hash TEXT NOT NULL, value REAL NOT NULL,
            answer TEXT NOT NULL, gold REAL, subject TEXT NOT NULL DEFAULT '', PRIMARY KEY (key, position)
        ) WITHOUT ROWID""",
        """INSERT INTO items SELECT
            key, position, coalesce(cast(part(doc, 0) AS INTEGER), position), coalesce(part(doc, 1), doc),
            coalesce(part(doc, 2), doc), value, coalesce(answer, ''), gold, subject
        FROM old_items""",
        "DROP TABLE old_items",
    ),
}
_CELL = "status, result, error, seconds, place"
_ITEM = "doc_id, doc_hash, prompt_hash, value, answer, gold, subject"  # in the order of Item's fields


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: a result, or an error in one line, or both where a part of the result is lacking. `where` is
    what computed it, where that was written down. `row` is the result as it is stored."""

    status: str
    row: dict[str, Any] | None
    error: str | None
    seconds: float
    where: Where | None = None

    @classmethod
    def of(cls, result: Result, seconds: float, where: Where | None = None) -> Outcome:
        error = result.lacking
        return cls("ok" if error is None else "failed", wire.result_row(result), error, seconds, where)

    @classmethod
    def failed(cls, error: str, seconds: float) -> Outcome:
        return cls("failed", None, error, seconds)

    def result(self, kind: str) -> Any:
        """The result of a job of this kind, None where there is none. Raises InputError for what is none."""
        try:
            return None if self.row is None else wire.result_of(self.row, kind)
        except (ValueError, KeyError) as error:
            raise InputError(
                f"the store holds what is no result of '{kind}' ({error}); use another workspace"
            ) from error


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
            self._db.create_function("part", 2, _part, deterministic=True)
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
        place = None if outcome.where is None else json.dumps(wire.plain(outcome.where))
        row = (outcome.status, json.dumps(outcome.row), outcome.error, outcome.seconds, place)
        with self._transaction():
            self._db.execute("DELETE FROM cells WHERE key = ?", (key,))
            self._db.execute(
                f"INSERT INTO cells (key, finished, {_CELL}) VALUES (?, ?, ?, ?, ?, ?, ?)", (key, time.time(), *row)
            )
            self._db.executemany(
                f"INSERT INTO items (key, position, {_ITEM}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((key, position, *astuple(item)) for position, item in enumerate(items)),
            )

    def copy(self, key: str, to: str) -> None:
        """Write what is known of a cell down under another key."""
        with self._transaction():
            self._db.execute("DELETE FROM cells WHERE key = ?", (to,))
            for table, columns in (("cells", f"finished, {_CELL}"), ("items", f"position, {_ITEM}")):
                self._db.execute(
                    f"INSERT INTO {table} (key, {columns}) SELECT ?, {columns} FROM {table} WHERE key = ?", (to, key)
                )

    def outcomes(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes of those of `keys` that are known."""
        return {
            key: Outcome(status, json.loads(row), error, seconds, place and wire.typed(json.loads(place), Where))
            for key, status, row, error, seconds, place in self._of(keys, f"key, {_CELL}")
        }

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
        rows = self._db.execute(f"SELECT {_ITEM} FROM items WHERE key = ? ORDER BY position", (key,))
        return [Item(*row) for row in rows]


def _part(doc: str, number: int) -> str | None:
    """One of the three words of an item's name as an earlier version wrote it, None where there are not three."""
    words = doc.split(" ")
    return words[number] if len(words) == 3 else None
