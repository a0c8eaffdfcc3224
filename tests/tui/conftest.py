"""Fixtures: a workspace with a real sweep of the built-in model."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from answers import answered_here
from driving import ROOT, arguments, stored_answer, sweep
from once import made_once

import presets
from sweep.commands import launch
from sweep.results.history import find_run
from sweep.workspace import Workspace
from tui.screens import plan
from tui.state.sizes import ModelSizes

RUN_PROCESS = launch._run_process


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


@pytest.fixture(autouse=True)
def _answered_here(_elsewhere: None) -> Iterator[None]:
    with answered_here():
        yield


@pytest.fixture
def asks_processes(_answered_here: None) -> Iterator[None]:
    """The screens run the command line in new processes, as they do for a user."""
    with pytest.MonkeyPatch.context() as patch:  # undone before `_answered_here` is, unlike the one of the test
        patch.setattr(launch, "_run_process", RUN_PROCESS)
        yield


@pytest.fixture
def stored_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plan is the one that the pictures show: no process for a pause between keys."""
    monkeypatch.setattr(plan, "planned", lambda *_: stored_answer("plan"))
    monkeypatch.setattr(plan, "model_sizes", lambda *_: ModelSizes())
