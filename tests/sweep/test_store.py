"""The store keeps committed results, rejects files that it cannot read, and can be open twice."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from stored_runs import Stored, items

from converters.errors import InputError
from sweep.analysis.compare import compare
from sweep.analysis.measured import measurements
from sweep.commands.follow import Follower
from sweep.execution.cells_to_run import cells_to_run, equivalent_results
from sweep.items import Item, Question, QuestionImage
from sweep.jobs.settings import ComputeResources
from sweep.results.history import past_runs
from sweep.results.records import notes, records
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace
from tui.state.results import read_results


def test_another_connection_finds_what_was_stored(tmp_path: Path) -> None:
    items = [Item(0, "d0", "p0", 1.0, "7"), Item(1, "d1", "p1", 0.0, "ä", 0.5, "a")]
    with Store(tmp_path / "s.db") as store, Store(tmp_path / "s.db") as other:
        outcome = Outcome("ok", {"value": 0.5}, None, 1.5, ComputeResources(3, {"torch": "cuda"}))
        store.put("k", outcome, items)
        assert other.outcomes(["k", "unknown"]) == {"k": outcome}
        assert other.items("k") == items


def test_a_later_outcome_replaces_an_earlier_one_and_its_items(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.put("k", Outcome("ok", {}, None, 1.0), [Item(0, "d", "p", 1.0, "x")])
        store.put("k", Outcome("failed", None, "it broke", 2.0))
        assert store.outcomes(["k"])["k"].error == "it broke"
        assert store.items("k") == []


def test_a_run_is_written_once(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.add_run("r", {"n": 1})
        store.add_run("r", {"n": 2})
        assert [(run.run, run.plan) for run in store.runs()] == [("r", {"n": 1})]


def test_a_file_that_is_not_a_store_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(InputError, match=r"s\.db: this file cannot be read as a store"):
        Store(path)
    assert path.read_bytes().startswith(b"this is no database")


def test_a_store_of_another_version_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="another version of bitsweep"):
        Store(path)


def test_a_store_of_the_first_version_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE runs (run TEXT PRIMARY KEY, created REAL NOT NULL, plan TEXT NOT NULL);"
            "CREATE TABLE cells (key TEXT PRIMARY KEY, status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),"
            " result TEXT, error TEXT, seconds REAL NOT NULL, finished REAL NOT NULL);"
            "CREATE TABLE items (key TEXT NOT NULL REFERENCES cells (key) ON DELETE CASCADE,"
            " position INTEGER NOT NULL, doc TEXT NOT NULL, value REAL NOT NULL, answer TEXT,"
            " PRIMARY KEY (key, position)) WITHOUT ROWID;"
            "INSERT INTO cells VALUES ('old', 'ok', '{}', NULL, 1.0, 2.0);"
            "INSERT INTO items VALUES ('old', 0, 'a 0 d p', 1.0, '7');"
            "PRAGMA user_version = 1"
        )
    database.close()
    with Store(path) as store:
        assert store.items("old") == [Item(0, "d", "p", 1.0, "7", subject="a")]
        fresh = [Item(5, "e", "q", 0.0, "1", gold=0.25, subject="b")]
        asked = Question("b", "e", "q", "What?", ("this", "that"), "that", (QuestionImage("a.png", "00"),))
        store.put("new", Outcome("ok", {}, None, 1.0), fresh, [asked])
        assert store.items("new") == fresh
        assert store.question(fresh[0]) == asked
        assert store.question(store.items("old")[0]) is None
    with Store(path) as again:
        assert again.items("new") == fresh


def test_a_store_that_another_process_has_locked_is_in_use_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that writes, one that keeps the whole file for itself: the message names the process."""
    monkeypatch.setattr("sweep.results.database.PATIENCE", 0.2)
    path = tmp_path / "s.db"
    with Store(path) as store:
        store.put("k", Outcome("ok", {}, None, 1.0))
    with locked(path, "BEGIN IMMEDIATE") as process, Store(path) as store:
        assert store.statuses(["k"]) == {"k": "ok"}  # readers do not need the lock
        with pytest.raises(InputError, match=f"has locked this store .*process {process}.*; wait until") as error:
            store.put("k", Outcome("ok", {}, None, 2.0))
    assert "move it away" not in str(error.value)
    with (
        locked(path, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "DELETE FROM cells") as process,
        pytest.raises(InputError, match=f"has locked this store .*process {process}"),
    ):
        Store(path)
    with Store(path) as store:
        assert store.statuses(["k"]) == {"k": "ok"}


@contextmanager
def locked(path: Path, *statements: str) -> Iterator[int]:
    """Lock the file in another process, whose number is given."""
    code = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]:\n"
        "    database.execute(statement)\n"
        "print(flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store(path) as store:
        store._db.execute("PRAGMA max_page_count = 1")  # like a full disk
        with pytest.raises(InputError, match=r"s\.db: this store cannot be written \(database or disk is full\)"):
            store.put("k", Outcome("ok", {"text": "x" * 100_000}, None, 1.0))
        assert store.statuses(["k"]) == {}


# What a stored result may be instead of the fields of its class.
SHAPES = ("{}", "[]", '"text"', "1", "{", "null", b"\xff\xfe")
TEXTS = Stored("r", {"t": {"BF16": items([1.0, 0.0]), "Q4": items([0.0, 1.0])}}, variants=("BF16", "Q4"))


def damage(space: Workspace, statement: str, *values: object) -> None:
    with sqlite3.connect(space.database) as database:
        database.execute(statement, values)
    database.close()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_result_of_another_form_is_named_by_every_reader(tmp_path: Path, shape: str | bytes) -> None:
    space = Workspace(tmp_path)
    plan = TEXTS.put(space)
    key = TEXTS.key("Q4", "t")
    damage(space, "UPDATE cells SET result = ? WHERE key = ?", shape, key)
    with Store(space.database) as store:
        for reader in (
            lambda: records(plan, store),
            lambda: notes(plan, store),
            lambda: compare(space, "r:BF16", "r:Q4"),
            lambda: Follower(space, "r"),
            lambda: measurements(space, "micro"),
            lambda: read_results(space, "r"),
        ):
            with pytest.raises(InputError, match=r"run r: the stored result of Q4/t cannot be read \(.*\); repeat"):
                reader()
        assert [cell.key for cell in cells_to_run(plan.cells, store, tmp_path)] == [key]  # the remedy in the message
    assert [(run.done, run.damaged) for run in past_runs(space)] == [(1, 1)]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE cells SET place = '[]' WHERE key = ?", "result"),
        ("UPDATE cells SET place = '{' WHERE key = ?", "result"),
        ("UPDATE cells SET seconds = 'long' WHERE key = ?", "result"),
        ("UPDATE items SET value = 'right' WHERE key = ?", "items"),
        ("UPDATE items SET gold = 'right' WHERE key = ?", "items"),
    ],
)
def test_another_damaged_value_of_a_cell_is_named(tmp_path: Path, statement: str, what: str) -> None:
    space = Workspace(tmp_path)
    plan = TEXTS.put(space)
    key = TEXTS.key("Q4", "t")
    damage(space, statement, key)
    with Store(space.database) as store:
        with pytest.raises(InputError, match=f"run r: the stored {what} of Q4/t cannot be read"):
            records(plan, store)
        with pytest.raises(InputError, match=f"run r: the stored {what} of Q4/t cannot be read"):
            compare(space, "r:BF16", "r:Q4")
        assert [cell.key for cell in cells_to_run(plan.cells, store, tmp_path)] == [key]
    assert [(run.done, run.damaged) for run in past_runs(space)] == [(1, 1)]


def test_cancelled_and_skipped_cells_of_version_4_are_told_from_failed_ones(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    scores = [Item(0, "d", "p", 1.0, "x")]
    errors = {
        "it broke": "failed",
        "cancelled by the user": "cancelled",
        "needs a file that could not be made: it broke": "skipped",
        "no divergence, because BF16 could not be measured: it broke": "skipped",
    }
    with Store(path) as store:
        store.put("whole", Outcome("ok", {}, None, 1.0), scores)
        for error in errors:
            store.put(error, Outcome("failed", None, error, 1.0))
        before = store._db.execute("SELECT * FROM cells WHERE key = 'whole'")
    with sqlite3.connect(path) as database:  # version 4 differs in a check and a column, and has no questions
        database.execute("ALTER TABLE items DROP COLUMN cluster")
        database.execute("DROP TABLE questions")
        database.execute("PRAGMA user_version = 4")
    database.close()
    with Store(path) as store:
        assert store.statuses(errors) == errors
        assert store._db.execute("SELECT * FROM cells WHERE key = 'whole'") == before
        assert store.items("whole") == scores
        store.put("whole", Outcome("cancelled", None, "cancelled by the user", 1.0))
        assert store.items("whole") == []  # the items still belong to their cell


def test_a_damaged_result_is_measured_again_for_its_equivalent(tmp_path: Path) -> None:
    """A result that cannot be read does not stand for that of another cell."""
    space = Workspace(tmp_path)
    plan = TEXTS.put(space)
    whole = plan.cells[0]
    limited = replace(whole, key="other", equivalent_key=whole.key)
    with Store(space.database) as store:
        assert equivalent_results([limited], store) == {"other": whole.key}
        store.put(whole.key, Outcome("ok", {"metric": 1}, None, 1.0))
        assert equivalent_results([limited], store) == {}
