"""The command that is always in sight, and copying it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from driving import opened, play, shown, until
from fixed_run import RUN, fixed_run

from sweep.workspace import Workspace
from tui.clipboard import takes_clipboard
from tui.screens.results import ResultsScreen
from tui.widgets.run_this import RunThis


@pytest.mark.parametrize(
    ("environment", "takes"),
    [
        ({"TERM": "xterm-kitty"}, True),
        ({"TERM": "alacritty", "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, True),
        ({"TERM": "foot"}, True),
        ({"TERM": "xterm-256color", "WT_SESSION": "1"}, True),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, True),
        ({"TERM": "xterm-256color"}, False),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7600"}, False),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, False),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/tmux", "TERM_PROGRAM": "tmux"}, False),
        ({"TERM": "screen.xterm-kitty", "STY": "1.pts"}, False),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, False),
        ({"TERM": "linux"}, False),
        ({}, False),
    ],
)
def test_only_terminals_that_take_the_clipboard_are_said_to_have_copied(
    environment: dict[str, str], takes: bool
) -> None:
    assert takes_clipboard(environment) is takes


def test_the_command_of_the_recommended_variant_is_in_sight_and_is_copied(
    swept: Workspace, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.delenv("TMUX", raising=False)

    async def script() -> None:
        async with opened(swept, "results", run, (100, 30)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            assert screen.results is not None
            assert screen.results.choice is not None
            chosen = screen.results.choice.variant
            assert f"Run this  {chosen}" in shown(app)
            pinned = screen.query_one(RunThis).region
            await pilot.press("y")
            program, flag, file, *rest = shlex.split(app.clipboard)
            assert (program, flag, *rest[:2]) == ("llama-server", "-m", "-c", str(screen.results.plan.settings.ctx))
            assert Path(file).is_file()
            assert str(chosen) in Path(file).name
            assert "Copied" in shown(app)
            await pilot.press("S", "G", "g")
            assert screen.query_one(RunThis).region == pinned
            monkeypatch.setenv("TERM", "xterm")  # a driver without a terminal cannot leave the screen
            await pilot.press("y")
            await until(pilot, lambda: "This terminal may have no clipboard" in shown(app))
            app.notify("[/x] is [bold]plain[/bold] text")
            await until(pilot, lambda: "[/x] is [bold]plain[/bold] text" in shown(app))

    play(script())


def test_a_file_that_was_not_kept_is_made_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / "it's here")
    fixed_run(workspace)
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.delenv("TMUX", raising=False)

    async def script() -> None:
        async with opened(workspace, "results", RUN, (80, 24)) as (app, pilot):
            screen = app.screen
            assert isinstance(screen, ResultsScreen)
            await until(pilot, lambda: screen.results is not None)
            await pilot.press("y")
            words = shlex.split(app.clipboard)
            assert words[:3] == ["sweep", "convert", "/micro"]
            assert words[words.index("&&") + 1] == "llama-server"

    play(script())


def test_the_workspace_is_named_unless_it_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Workspace(tmp_path).arguments == ("--workspace", str(tmp_path))
    monkeypatch.setenv("BITSWEEP_WORKSPACE", str(tmp_path))
    assert Workspace(tmp_path).arguments == ()
