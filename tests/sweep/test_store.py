"""The store keeps committed results, rejects files that it cannot read, and can be open twice."""

import sqlite3
from pathlib import Path

import pytest

from converters.errors import InputError
from sweep.items import Item
from sweep.jobs.settings import ComputeResources
from sweep.results.store import Outcome, Store


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
        store.put("new", Outcome("ok", {}, None, 1.0), fresh)
        assert store.items("new") == fresh
    with Store(path) as again:
        assert again.items("new") == fresh


def test_a_result_of_another_form_is_rejected() -> None:
    with pytest.raises(InputError, match=r"a result of kind 'speed' that cannot be read .*use another workspace"):
        Outcome("ok", {"speed": {}}, None, 1.0).result("speed")
