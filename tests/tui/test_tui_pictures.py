"""The screens as pictures, compared with those in pictures/. UPDATE_PICTURES=1 writes new ones.

They show fixed data: a run with given figures, and an answer of `sweep fit` and a plan in JSON files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import opened, pale_words, play, settled, shown, until
from fixed_run import RUN, fixed_run
from stored_runs import Stored

from sweep.workspace import Workspace
from tui.app import SweepApp
from tui.screens.fit import FitScreen
from tui.screens.log import NO_LOG
from tui.screens.plan import PlanScreen
from tui.screens.results import ResultsScreen
from tui.screens.run import RunScreen
from tui.state.fit_answer import read_answer
from tui.state.question import Question

PICTURES = Path(__file__).parent / "pictures"
SIZES = ((80, 24), (140, 40))
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    workspace = Workspace(tmp_path / "fixed")
    monkeypatch.setenv("BITSWEEP_WORKSPACE", str(workspace.root))  # else commands would name it
    fixed_run(workspace)
    return workspace


def compare(app: SweepApp, name: str) -> None:
    """Assert that all words are readable, and that the screen equals the stored picture."""
    assert pale_words(app) == []
    picture, stored = app.export_screenshot(), PICTURES / f"{name}.svg"
    if os.environ.get("UPDATE_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        stored.write_text(picture)
    if not stored.is_file() or stored.read_text() != picture:
        drawn = Path(os.environ.get("PICTURES_DRAWN", ".")).absolute() / f"{name}.svg"
        drawn.write_text(picture)
        raise AssertionError(f"{stored.name} is another picture now: {drawn}; UPDATE_PICTURES=1 stores the new one")


def answer(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PICTURES / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_results_screen_looks_as_stored(fixed: Workspace, size: tuple[int, int]) -> None:
    async def script() -> None:
        async with opened(fixed, "results", RUN, size) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            await settled(pilot)
            compare(app, f"results-{size[0]}")

    play(script())


def test_the_results_screen_of_a_published_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's perplexities are a column of the table, and in the details of the variant."""
    workspace = Workspace(tmp_path)
    monkeypatch.setenv("BITSWEEP_WORKSPACE", str(workspace.root))
    variants, losses = ("torch:BF16", "gptq:w4g128", "rtn:w4"), (2.2, 2.21, 2.26)
    text = {
        name: (np.full(8, loss), None if loss == 2.2 else np.linspace(0.9, 1.1, 8) * (loss - 2.2))
        for name, loss in zip(variants, losses, strict=True)
    }
    Stored("a-run", text=text, variants=variants, model="Qwen3-8B").put(workspace)

    async def script() -> None:
        async with opened(workspace, "results", "a-run", SIZES[1]) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            await pilot.press("j")
            await settled(pilot)
            compare(app, "results-study-140")

    play(script())


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_run_screen_looks_as_stored(fixed: Workspace, size: tuple[int, int]) -> None:
    async def script() -> None:
        async with opened(fixed, "run", RUN, size) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, RunScreen)
            await until(pilot, lambda: screen.snapshot is not None and NO_LOG in shown(app))
            compare(app, f"run-{size[0]}")

    play(script())


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_plan_screen_looks_as_stored(
    fixed: Workspace, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 1 << 39, 1 << 39))

    async def script() -> None:
        async with opened(fixed, "plan", RUN, size) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, PlanScreen)
            await until(pilot, lambda: screen.plan is not None and screen._sizes[0] == screen.draft.model)
            screen.show(screen.draft, answer("plan"))
            await settled(pilot)
            compare(app, f"plan-{size[0]}")

    play(script())


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_fit_screen_looks_as_stored(fixed: Workspace, size: tuple[int, int]) -> None:
    async def script() -> None:
        async with opened(fixed, "fit", RUN, size) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, FitScreen)
            await until(pilot, lambda: screen.report is not None and not screen._busy)
            found = answer("fit")
            app.session.ask(Question(found["model"], ("RTX 3060 12GB",)))
            screen.show(screen.question, read_answer(found))
            await settled(pilot)
            compare(app, f"fit-{size[0]}")

    play(script())
