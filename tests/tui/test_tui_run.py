"""The Run screen and the processes that it starts and follows. Every sweep here is real."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from driving import PATIENCE, arguments, begin, opened, play, settled, shown, until
from fixed_run import fixed_run
from rich.style import Style

from sweep.commands.launch import Command
from sweep.events import Event
from sweep.execution.control import LOOK_EVERY
from sweep.results.history import past_runs
from sweep.workspace import Workspace, run_lock
from tui.app import SweepApp
from tui.screens.pager import PagerScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.theme import Palette
from tui.widgets.job_table import JobTable, bar


def screen_of(app: SweepApp) -> RunScreen:
    assert isinstance(app.screen, RunScreen)
    return app.screen


def statuses(screen: RunScreen) -> dict[str, str]:
    """The status of each job by label; empty while no run is shown."""
    return {} if screen.snapshot is None else {c.label: c.status for c in screen.snapshot.progress.cells.values()}


def test_a_finished_run_shows_results_and_reacts_to_keys(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "run", run, (120, 30)) as (app, pilot):
            screen = screen_of(app)
            await until(pilot, lambda: screen.snapshot is not None)
            words = shown(app)
            assert "✓ done" in words
            assert "12/12 jobs" in words
            assert "PPL 2." in words
            assert words.count("KLD 0.0") == 2
            cells = screen.query_one(JobTable)
            await pilot.press("g")
            assert cells.label == "BF16/export"
            await pilot.press("l", "j")
            assert cells.label == "Q4_K_M/speed"
            await pilot.press("k", "h", "G")
            assert cells.label == "Q2_K/export"
            for key in ("p", "x", "R"):  # nothing runs, nothing failed
                await pilot.press(key)
            assert app.session.launch is None
            await pilot.press("L")
            assert isinstance(app.screen, PagerScreen)
            await pilot.press("escape", "enter")
            assert isinstance(app.screen, PagerScreen)
            await pilot.press("escape", "F", "F", "o")
            assert isinstance(app.screen, RunsScreen)
            await until(pilot, lambda: run in shown(app))
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is screen)

    play(script())


def test_a_speed_that_is_measured_again_is_a_job_of_the_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    plan = fixed_run(workspace)
    log = workspace.run(plan.run) / "events.jsonl"
    lines = log.read_text().splitlines()[:-1]  # without the end
    events = [Event("cells_added", None, {"pending": ["Q2_K/speed again"]}), Event("cell_started", "Q2_K/speed again")]
    log.write_text("".join(f"{line}\n" for line in (*lines, *(event.to_json() for event in events))))

    async def script() -> None:
        async with opened(workspace, "run", plan.run, (140, 30)) as (app, pilot):
            screen = screen_of(app)
            await until(pilot, lambda: screen.snapshot is not None)
            assert screen.query_one(JobTable).heads[-1] == "speed again"
            count = len(plan.cells)
            assert f"{count}/{count + 1} jobs" in shown(app)
            screen.query_one(JobTable).go_to_cell("Q2_K/speed again")
            await until(pilot, lambda: "Q2_K/speed again  running" in shown(app))
            assert screen.snapshot is not None
            assert 0.5 < screen.snapshot.progress.share < 1.0

    play(script())


def test_a_sweep_survives_pause_cancel_retry_and_a_killed_process(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sweep that is stopped in every possible way and still finishes."""
    workspace = Workspace(tmp_path / "w")
    workspace.root.mkdir()

    async def script() -> None:
        async with opened(workspace, "plan", size=(130, 32)) as (app, pilot):
            bells: list[bool] = []
            monkeypatch.setattr(app, "bell", lambda: bells.append(True))
            begin(app, Command(arguments(text, limit=40), os.getcwd()))
            await until(pilot, lambda: isinstance(app.screen, RunScreen))
            screen = screen_of(app)
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.is_running)
            assert screen.snapshot is not None

            # pause: the running job finishes, and no other job starts
            await until(pilot, lambda: statuses(screen).get("BF16/speed") == "running")
            screen.query_one(JobTable).go_to_cell("BF16/text")
            screen._follows = False
            await pilot.press("p")
            await until(pilot, lambda: "pausing" in shown(app))
            assert "not started yet" in shown(app)
            await until(pilot, lambda: screen.snapshot is not None and not screen.snapshot.is_running)
            assert "paused; p resumes it" in shown(app)
            assert statuses(screen)["BF16/speed"] == "done"
            assert statuses(screen)["BF16/text"] == "waiting"
            assert len(bells) == 1

            # p resumes the run; pressed twice, it changes nothing
            await pilot.press("p")
            await until(pilot, lambda: statuses(screen).get("BF16/text") == "running")
            assert "done before" in shown(app)
            await pilot.press("p")
            await until(pilot, lambda: "pausing" in shown(app))
            await asyncio.sleep(3 * LOOK_EVERY)  # the sweep has seen the request
            await pilot.press("p")
            await until(pilot, lambda: "pausing" not in shown(app))
            if not screen.snapshot.is_running:  # the job was done before
                await pilot.press("p")
            await until(pilot, lambda: app.session.launch is None and statuses(screen).get("BF16/speed") == "known")
            await until(pilot, lambda: statuses(screen).get("BF16/micro_form") == "running")

            # the running job is cancelled, the others continue
            screen.query_one(JobTable).go_to_cell("BF16/micro_form")
            await settled(pilot)
            await pilot.press("x")
            await until(pilot, lambda: statuses(screen)["BF16/micro_form"] in ("cancelled", "done"))
            if statuses(screen)["BF16/micro_form"] == "cancelled":  # unless it was done before
                assert "⊗ 1 cancelled" in shown(app)
                assert screen.snapshot.progress.cells["BF16/micro_form"].error == "cancelled by the user"

            # the whole process dies
            await until(pilot, lambda: statuses(screen)["Q4_K_M/speed"] == "running")
            pid = screen.snapshot.progress.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.died)
            await until(pilot, lambda: "its process died" in shown(app))
            assert len(bells) == 2
            await pilot.press("R")
            await until(pilot, lambda: app.session.launch is None and statuses(screen).get("BF16/speed") == "known")
            await pilot.press("4")  # the end is announced there too
            await until(
                pilot, lambda: screen.snapshot is not None and screen.snapshot.progress.status == "done", 5 * PATIENCE
            )
            assert len(bells) == 3
            assert "The sweep is done" in shown(app)
            await pilot.press("3")
            assert set(statuses(screen).values()) <= {"done", "known"}
            assert "12/12 jobs" in shown(app)

            # nothing is left to try
            await pilot.press("R")
            assert app.session.launch is None

    play(script())
    (past,) = past_runs(workspace)
    assert (past.done, past.failed) == (12, 0)


def test_a_running_sweep_is_shown_while_its_retry_waits(text: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.root.mkdir()

    async def script() -> None:
        async with opened(workspace, "plan", size=(80, 24)) as (app, pilot):
            begin(app, Command(arguments(text), os.getcwd()))
            await until(pilot, lambda: isinstance(app.screen, RunScreen))
            screen = screen_of(app)
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.is_running)
            cells = screen.query_one(JobTable)
            await until(pilot, lambda: "running" in statuses(screen).values() and cells.label is not None)
            await pilot.press("x")  # may be too late for such a short job
            await pilot.press("R")
            assert app.session.launch is not None
            await pilot.press("4", "3")
            assert "/12 jobs" in shown(app)
            assert "starting" not in shown(app)
            await until(pilot, lambda: app.session.launch is None)
            # the first run may be done, with the cancelled job, before the second one is
            await until(pilot, lambda: set(statuses(screen).values()) in ({"known"}, {"done", "known"}), 5 * PATIENCE)

    play(script())


def test_the_state_line_fits_on_a_narrow_screen(tmp_path: Path) -> None:
    """The text has priority over the bar, so that failures do not push the memory out of view."""
    workspace = Workspace(tmp_path / "w")
    run = fixed_run(workspace).run

    async def script() -> None:
        async with opened(workspace, "run", run, (80, 24)) as (app, pilot):
            screen = screen_of(app)
            await until(pilot, lambda: screen.snapshot is not None)
            assert screen.snapshot is not None
            screen.workers.cancel_group(screen, "follow")  # it would show the real state of the run
            progress = replace(screen.snapshot.progress, status="running", started=time.time() - 600.0)
            for pausing in (False, True):
                at = replace(screen.snapshot, progress=progress, pausing=pausing, died=False, resident_bytes=1 << 30)
                screen.show(at, (None, ""))
                await settled(pilot)
                assert "✗ 1 failed  ⊘ 3 skipped" in shown(app)
                assert "memory now 1.00 GiB" in shown(app)

    play(script())


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_progress_bar_is_readable_without_colours(share: float) -> None:
    style = Style()
    drawn = bar(share, 10, Palette(style, style, style, style, style, style, style)).plain
    assert (drawn.count("━"), len(drawn)) == (round(10 * share), 10)


def test_a_rejected_sweep_gives_a_message(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.root.mkdir()

    async def script() -> None:
        async with opened(workspace, "run") as (app, pilot):
            assert "no run yet" in shown(app)
            begin(app, Command(("run", "micro", "--variants", "=Q9_Z"), os.getcwd()))
            await until(pilot, lambda: "The sweep did not start" in shown(app))
            assert "unknown quant" in shown(app)
            assert "2: back to its plan" in shown(app)
            assert app.session.launch is None

    play(script())
    assert not list((workspace.root / "launches").iterdir())


@pytest.mark.slow
def test_closing_the_screen_does_not_stop_the_sweep(text: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.root.mkdir()
    found: dict[str, int] = {}

    async def first() -> None:
        async with opened(workspace, "plan", size=(130, 32)) as (app, pilot):
            begin(app, Command(arguments(text), os.getcwd()))
            await until(pilot, lambda: isinstance(app.screen, RunScreen))
            screen = screen_of(app)
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.is_running)
            assert screen.snapshot is not None
            assert screen.snapshot.progress.pid is not None
            found["pid"] = screen.snapshot.progress.pid
            await pilot.press("q")
            await until(pilot, lambda: "A sweep is running" in shown(app))
            await pilot.press("escape")
            assert app.screen is screen
            await pilot.press("q")
            await until(pilot, lambda: "A sweep is running" in shown(app))
            await pilot.press("q")

    async def second() -> None:
        async with opened(workspace, "results", size=(130, 32)) as (app, pilot):
            await until(pilot, lambda: isinstance(app.screen, RunScreen))  # it opens because a sweep is running
            screen = screen_of(app)
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.progress.status == "done")

    play(first())
    assert psutil.pid_exists(found["pid"])
    play(second())
    (past,) = past_runs(workspace)
    assert (past.done, past.failed) == (12, 0)
    with run_lock(workspace.run(past.plan.run)) as free:
        assert free
