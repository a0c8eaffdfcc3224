"""Fixtures: a workspace with a real sweep of the built-in model."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from driving import ROOT, arguments, sweep
from once import made_once

import presets
from sweep.results.history import find_run
from sweep.workspace import Workspace


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "short.txt"
    file.write_text(presets.builtin_models()["micro"].text.read_text()[:6_000])
    return file


@pytest.fixture(scope="session")
def swept(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with one finished run, shared by all test processes. Tests must not change it."""

    def make(root: Path) -> None:
        ended = sweep(*arguments(text), "--workspace", str(root), "--format", "quiet")
        assert ended.returncode == 0, ended.stderr

    return Workspace(made_once(tmp_path_factory, "swept", make))


@pytest.fixture(scope="session")
def run(swept: Workspace) -> str:
    return find_run(swept, None).run


@pytest.fixture
def own(swept: Workspace, tmp_path: Path) -> Workspace:
    """A copy that a test can change. SQLite copies the database, because other test processes may have it open."""
    own = Workspace(tmp_path / "own")
    shutil.copytree(swept.root, own.root, ignore=shutil.ignore_patterns("sweep.db*"))
    with closing(sqlite3.connect(swept.database)) as theirs, closing(sqlite3.connect(own.database)) as ours:
        theirs.backup(ours)
    return own


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in its own directories, so that nothing is written into the repository or the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITSWEEP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
