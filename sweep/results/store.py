"""The store: runs, results of cells, items of tasks and their questions in one SQLite database.

The key of a cell is a hash of everything that its result depends on, so every run that needs the same result finds it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from converters.errors import InputError
from sweep.endings import Ending
from sweep.items import Item, Question
from sweep.jobs import serialization
from sweep.jobs.base import Result
from sweep.jobs.cell import Cell
from sweep.jobs.settings import ComputeResources
from sweep.results.database import Database

VERSION = 7
_MANY = 500  # values in one query; old versions of SQLite allow 999
_SCHEMA = """
CREATE TABLE runs (run TEXT PRIMARY KEY, created REAL NOT NULL, plan TEXT NOT NULL);
CREATE TABLE cells (
    key TEXT PRIMARY KEY, status TEXT NOT NULL CHECK (status IN ('ok', 'failed', 'cancelled', 'skipped')),
    result TEXT, error TEXT, seconds REAL NOT NULL, finished REAL NOT NULL, place TEXT
);
CREATE TABLE items (
    key TEXT NOT NULL REFERENCES cells (key) ON DELETE CASCADE, position INTEGER NOT NULL,
    doc_id INTEGER NOT NULL, doc_hash TEXT NOT NULL, prompt_hash TEXT NOT NULL, value REAL NOT NULL,
    answer TEXT NOT NULL, gold REAL, subject TEXT NOT NULL DEFAULT '', cluster TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
"""
# Once for all variants that answered it
_QUESTIONS = """CREATE TABLE questions (
    subject TEXT NOT NULL, doc_hash TEXT NOT NULL, prompt_hash TEXT NOT NULL, question TEXT NOT NULL,
    PRIMARY KEY (subject, doc_hash, prompt_hash)
) WITHOUT ROWID"""
# The statements that upgrade a store from each version to the next
_UPGRADES = {
    1: ("ALTER TABLE items ADD COLUMN gold REAL", "ALTER TABLE items ADD COLUMN subject TEXT"),
    # Version 1 wrote the subject into `doc`, before the document; version 2 wrote it into a column of its own too
    2: (
        "ALTER TABLE items RENAME COLUMN subject TO old",
        "ALTER TABLE items ADD COLUMN subject TEXT NOT NULL DEFAULT ''",
        "UPDATE items SET subject = coalesce(old, substr(doc, 1, instr(doc, ' ') - 1))",
        "UPDATE items SET doc = substr(doc, length(subject) + 2)",
        "ALTER TABLE items DROP COLUMN old",
    ),
    # `doc` was "NUMBER HASH HASH". Any other text is used for both hashes.
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
    # Cancelled and skipped cells were stored as failed
    4: (
        """CREATE TABLE new_cells (
            key TEXT PRIMARY KEY, status TEXT NOT NULL CHECK (status IN ('ok', 'failed', 'cancelled', 'skipped')),
            result TEXT, error TEXT, seconds REAL NOT NULL, finished REAL NOT NULL, place TEXT
        )""",
        """INSERT INTO new_cells SELECT key, CASE
            WHEN status = 'failed' AND error = 'cancelled by the user' THEN 'cancelled'
            WHEN status = 'failed' AND error LIKE 'needs a file that could not be made: %' THEN 'skipped'
            WHEN status = 'failed' AND error LIKE 'no divergence, because % could not be measured: %' THEN 'skipped'
            ELSE status END, result, error, seconds, finished, place
        FROM cells""",
        "DROP TABLE cells",
        "ALTER TABLE new_cells RENAME TO cells",
    ),
    5: ("ALTER TABLE items ADD COLUMN cluster TEXT NOT NULL DEFAULT ''",),
    6: (_QUESTIONS,),
}
_CELL = "status, result, error, seconds, place"
_ITEM = "doc_id, doc_hash, prompt_hash, value, answer, gold, subject, cluster"  # in the order of Item's fields
_READABLE_ITEM = (
    "typeof(doc_id) = 'integer' AND typeof(value) = 'real' AND typeof(gold) IN ('real', 'null') AND "
    "(typeof(doc_hash), typeof(prompt_hash), typeof(answer), typeof(subject), typeof(cluster)) = "
    "('text', 'text', 'text', 'text', 'text')"
)
_ItemRow = tuple[int, str, str, float, str, float | None, str, str]


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: with a result, with an error in one line, or with both if a part of the result is missing.

    `status` is "ok" or an Ending. `row` is the result as it is stored. `resources` are the threads and devices that
    computed it; None if unknown. `damage` says why the stored outcome cannot be read; None if it can.
    """

    status: str
    row: dict[str, Any] | None
    error: str | None
    seconds: float
    resources: ComputeResources | None = None
    damage: str | None = None

    @classmethod
    def of(cls, result: Result, seconds: float, resources: ComputeResources | None = None) -> Outcome:
        error = result.incomplete_reason
        status = "ok" if error is None else Ending.FAILED
        return cls(status, serialization.result_to_json(result), error, seconds, resources)

    @classmethod
    def stored(cls, status: str, row: Any, error: str | None, seconds: Any, place: Any) -> Outcome:
        """The outcome with the values that are in the database."""
        try:
            result = json.loads(row)
            if result is None and status == "ok":
                raise ValueError("it is empty")
            resources = None if place is None else serialization.from_json(json.loads(place), ComputeResources)
            return cls(status, result, error, serialization.from_json(seconds, float), resources)
        except (ValueError, TypeError) as damage:
            return cls(status, None, error, math.nan, damage=str(damage))

    def result(self, cell: Cell, run: str) -> Any:
        """The result, which is of this cell of a run; None if there is none. Raises InputError if it cannot be read."""
        try:
            return self.read(cell.kind)
        except (ValueError, KeyError) as error:
            raise InputError(damaged(run, cell, "result", error)) from error

    def is_readable(self, kind: str) -> bool:
        """Whether there is no result, or it can be read as one of a job of this kind."""
        try:
            self.read(kind)
        except (ValueError, KeyError):
            return False
        return True

    def read(self, kind: str) -> Any:
        """The result as one of a job of this kind; None if there is none. Raises ValueError, or KeyError for an unknown
        kind."""
        if self.damage is not None:
            raise ValueError(self.damage)
        return None if self.row is None else serialization.result_from_json(self.row, kind)


def damaged(run: str, cell: Cell, what: str, error: Exception) -> str:
    """The message about a stored part of a cell that cannot be read."""
    return (
        f"run {run}: the stored {what} of {cell.label} cannot be read ({error}); repeat the run's `sweep run` command, "
        "which measures it again, or use another workspace"
    )


@dataclass(frozen=True)
class StoredRun:
    run: str
    created: float
    plan: dict[str, Any]


class Store:
    """A connection to the database. Use it as a context manager. Several processes can have the database open (WAL)."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)
        self._db.execute("PRAGMA synchronous = FULL")
        if self._version() != VERSION:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.add_function("part", 2, _part)
            self._prepare()
        self._db.execute("PRAGMA foreign_keys = ON")  # not before: an upgrade that replaces `cells` would delete items

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version")[0][0])

    def _prepare(self) -> None:
        with self._db.transaction():
            version = self._version()  # another process may have been faster
            while version in _UPGRADES:
                for statement in _UPGRADES[version]:
                    self._db.execute(statement)
                version += 1
                self._db.execute(f"PRAGMA user_version = {version}")
            if version == 0:
                for statement in [*_SCHEMA.split(";\n"), _QUESTIONS]:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise InputError(
                    f"{self._db.path}: another version of bitsweep wrote this store (format {version}, this version "
                    f"reads {VERSION}); use another --workspace"
                )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add_run(self, run: str, plan: dict[str, Any]) -> None:
        """Store a run. Of a run that is stored already, only what its advice is asked is replaced."""
        self._db.execute(
            "INSERT INTO runs VALUES (?, ?, ?) ON CONFLICT (run) DO UPDATE "
            "SET plan = json_set(plan, '$.question', json(json_extract(excluded.plan, '$.question'))) "
            "WHERE json_valid(plan) AND json_extract(excluded.plan, '$.question') IS NOT NULL",
            (run, time.time(), json.dumps(plan)),
        )

    def set_skipped(self, run: str, skipped: Mapping[str, Any]) -> None:
        """Replace the variants that the plan of a run leaves out."""
        rows = json.dumps({name: serialization.to_json(one) for name, one in skipped.items()})
        self._db.execute(
            "UPDATE runs SET plan = json_set(plan, '$.skipped', json(?)) WHERE run = ? AND json_valid(plan)",
            (rows, run),
        )

    def runs(self) -> list[StoredRun]:
        """All runs, the newest first."""
        rows = self._db.execute("SELECT run, created, plan FROM runs ORDER BY created DESC, run")
        return [StoredRun(run, created, _object(plan)) for run, created, plan in rows]

    def put(self, key: str, outcome: Outcome, items: Sequence[Item] = (), questions: Sequence[Question] = ()) -> None:
        """Store a cell's outcome, its items and their questions in one transaction. They replace those of an earlier
        attempt."""
        place = None if outcome.resources is None else json.dumps(serialization.to_json(outcome.resources))
        row = (outcome.status, json.dumps(outcome.row), outcome.error, outcome.seconds, place)
        with self._db.transaction():
            self._db.execute("DELETE FROM cells WHERE key = ?", (key,))
            self._db.execute(
                f"INSERT INTO cells (key, finished, {_CELL}) VALUES (?, ?, ?, ?, ?, ?, ?)", (key, time.time(), *row)
            )
            self._db.execute_many(
                f"INSERT INTO items (key, position, {_ITEM}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((key, position, *astuple(item)) for position, item in enumerate(items)),
            )
            self._db.execute_many(
                "INSERT OR REPLACE INTO questions (subject, doc_hash, prompt_hash, question) VALUES (?, ?, ?, ?)",
                (
                    (one.subject, one.doc_hash, one.prompt_hash, json.dumps(serialization.to_json(one)))
                    for one in questions
                ),
            )

    def copy(self, key: str, to: str) -> None:
        """Copy the outcome and the items of a cell to another key."""
        with self._db.transaction():
            self._db.execute("DELETE FROM cells WHERE key = ?", (to,))
            for table, columns in (("cells", f"finished, {_CELL}"), ("items", f"position, {_ITEM}")):
                self._db.execute(
                    f"INSERT INTO {table} (key, {columns}) SELECT ?, {columns} FROM {table} WHERE key = ?", (to, key)
                )

    def outcomes(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes, by key, of those of `keys` that are stored."""
        return {key: Outcome.stored(*values) for key, *values in self._of(keys, f"key, {_CELL}")}

    def statuses(self, keys: Iterable[str]) -> dict[str, str]:
        """The statuses, by key, of those of `keys` that are stored. Results are not read."""
        return dict(self._of(keys, "key, status"))

    def seconds(self, keys: Iterable[str]) -> dict[str, float]:
        """The duration in seconds, by key, of those of `keys` that are done."""
        return {key: seconds for key, seconds, status in self._of(keys, "key, seconds, status") if status == "ok"}

    def _of(self, keys: Iterable[str], columns: str, source: str = "cells WHERE") -> Iterator[Any]:
        """These columns of those of `keys` that are stored."""
        all_keys = list(keys)
        for start in range(0, len(all_keys), _MANY):
            some = all_keys[start : start + _MANY]
            marks = ",".join("?" * len(some))
            yield from self._db.execute(f"SELECT {columns} FROM {source} key IN ({marks})", some)

    def damaged_items(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` whose items cannot be read. The database looks at them, which is faster than reading them."""
        return {key for (key,) in self._of(keys, "DISTINCT key", f"items WHERE NOT ({_READABLE_ITEM}) AND")}

    def items(self, key: str) -> list[Item]:
        """The items of a task's cell, in the order of its documents. Raises ValueError if they cannot be read."""
        rows = self._db.execute(f"SELECT {_ITEM} FROM items WHERE key = ? ORDER BY position", (key,))
        return [Item(*row) for row in serialization.from_json(rows, list[_ItemRow])]

    def items_of(self, cell: Cell, run: str) -> list[Item]:
        """The items of a task's cell of a run. Raises InputError if they cannot be read."""
        try:
            return self.items(cell.key)
        except ValueError as error:
            raise InputError(damaged(run, cell, "items", error)) from error

    def question(self, item: Item) -> Question | None:
        """What the item's document asks; None if it is not stored, which earlier versions did not do. Raises InputError
        if it cannot be read."""
        rows = self._db.execute(
            "SELECT question FROM questions WHERE subject = ? AND doc_hash = ? AND prompt_hash = ?",
            (item.subject, item.doc_hash, item.prompt_hash),
        )
        try:
            return serialization.from_json(json.loads(rows[0][0]), Question) if rows else None
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self._db.path}: the stored question of document {item.doc_id} of {item.subject} cannot be read "
                f"({error}); use another workspace"
            ) from error


def _object(text: Any) -> dict[str, Any]:
    """A JSON object; an empty one, which is no plan, if it is damaged."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _part(doc: str, number: int) -> str | None:
    """One of the three words of `doc` as version 3 wrote it; None if it does not have three words."""
    words = doc.split(" ")
    return words[number] if len(words) == 3 else None
