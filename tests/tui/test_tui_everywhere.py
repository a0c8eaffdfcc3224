"""All screens: help, footer, command palette, themes, sizes, and unreadable workspaces."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from driving import COMMAND, PATIENCE, ROOT, opened, pale_words, play, settled, shown, until

from sweep.workspace import Workspace
from tui.keymap import KEYMAP
from tui.screens.help import HelpScreen
from tui.screens.quit import QuitScreen
from tui.theme import DARK, LIGHT
from tui.widgets.key_bar import KeyBar

# Everything but letters, punctuation, lines of frames and axes, scroll bars, and the dots of plots
MAYBE_SIGNS = {chr(c) for c in range(0x00B1, 0x2FFF) if not chr(c).isalpha()} - set("“”‘’−–·│─┤└┴▁▂▃▄▅▆▇")
MAYBE_SIGNS -= {chr(c) for c in range(0x2800, 0x2900)}
MODES = ("fit", "plan", "run", "results")


@pytest.mark.parametrize("mode", MODES)
def test_the_help_lists_every_key_and_the_footer_at_most_eight(swept: Workspace, run: str, mode: str) -> None:
    async def script() -> None:
        async with opened(swept, mode, run, (100, 40)) as (app, pilot):
            screen = app.screen
            keys = screen.query_one(KeyBar).query("FooterKey")
            assert 0 < len(keys) <= 8
            assert keys.last().region.right <= 80  # none is left out at the least width
            names = [f"{key.key_display} {key.description}" for key in keys]  # type: ignore[attr-defined]
            for width in (79, 60, 41, 24, 100):
                await pilot.resize_terminal(width, 20)
                line = shown(app).splitlines()[-1]
                whole = [name for name in names if f" {name} " in f" {line} "]
                assert line.split() == " ".join(whole).split()  # nothing but whole keys
                last = ("? Help", "q Quit")
                others = [name for name in whole if name not in last]
                assert others == [name for name in names if name not in last][: len(others)]  # the first ones
                assert len(others) == len(whole) - 2  # the last ones are always there
                assert (whole == names) == (sum(len(name) + 2 for name in names) <= width)
            signs = {c for c in shown(app) if c in MAYBE_SIGNS}
            await pilot.press("question_mark")
            assert isinstance(app.screen, HelpScreen)
            await pilot.resize_terminal(140, 120)
            words = " ".join(shown(app).split())
            for active in screen.active_bindings.values():
                if active.node is screen and active.binding.id in KEYMAP:
                    assert active.binding.description in words
            assert "ctrl+p" in words
            assert {c for c in signs if c not in words} == set()
            await pilot.press("question_mark", "escape")
            assert app.screen is screen

    play(script())


def test_digits_the_mouse_and_the_palette_open_the_screens(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run) as (app, pilot):
            for key, mode in zip("1234", MODES, strict=True):
                await pilot.press(key)
                assert app.current_mode == mode
                assert f"[{key} {mode.title()}]" in shown(app)
            line = shown(app).splitlines()[0]
            await pilot.click("TopBar", offset=(line.index("2 Plan"), 0))
            await until(pilot, lambda: app.current_mode == "plan")
            await pilot.press("ctrl+p", *"go to results")
            await until(pilot, lambda: "Show the Results screen" in shown(app))
            await pilot.press("enter")
            await until(pilot, lambda: app.current_mode == "results")

    play(script())


def test_every_theme_has_its_own_colours(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run) as (app, pilot):
            await until(pilot, lambda: "recommended" in shown(app))
            pictures = set()
            for theme in app.available_themes:
                app.theme = theme
                await settled(pilot)
                pictures.add(app.export_screenshot())
                assert "Q4_K_M" in shown(app)
                assert pale_words(app) == [], theme
            assert len(pictures) == len(app.available_themes)
            for theme in (DARK.name, LIGHT.name):
                app.theme = theme
                for keys in ("3", "4", "slash", "escape", "w", "escape", "e", "escape", "question_mark", "q"):
                    await pilot.press(keys)
                    await settled(pilot)
                    assert pale_words(app) == [], (theme, keys)
                await pilot.press("ctrl+p")
                assert pale_words(app) == [], (theme, "the palette")
                await pilot.press("escape")
            await pilot.press("1")  # in the light theme; pictures of the dark one are looked at elsewhere
            await until(pilot, lambda: "Run this" in shown(app))
            assert pale_words(app) == []
            await pilot.press("2", "e")
            await until(pilot, lambda: "jobs are done" in shown(app) or "jobs to do" in shown(app))
            assert pale_words(app) == []

    play(script())


@pytest.mark.parametrize("mode", ["run", "results"])
def test_a_new_theme_replaces_all_colours_of_the_old_one(swept: Workspace, run: str, mode: str) -> None:
    async def script() -> None:
        async with opened(swept, mode, run) as (app, pilot):
            await until(pilot, lambda: "Q4_K_M" in shown(app))
            old = DARK.foreground
            assert old is not None
            assert old in app.export_screenshot()
            app.theme = LIGHT.name
            await settled(pilot)
            assert old not in app.export_screenshot()

    play(script())


def test_quitting_without_a_running_sweep_asks_nothing(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run) as (app, pilot):
            await pilot.press("q")
            await until(pilot, lambda: app._exit or isinstance(app.screen, QuitScreen))
            assert app._exit

    play(script())


def test_ctrl_c_says_how_to_quit(swept: Workspace, run: str) -> None:
    async def script() -> None:
        async with opened(swept, "results", run) as (app, pilot):
            await pilot.press("ctrl+c")
            await until(pilot, lambda: "q quits" in shown(app))

    play(script())


SLOWER = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("fit", "plan")]


@pytest.mark.parametrize("mode", [*SLOWER, "run", "results"])
def test_a_screen_can_be_resized_to_any_size(swept: Workspace, run: str, mode: str) -> None:
    """20 x 5 and back, and up to 50 sizes in between."""
    chosen = random.Random(7)

    async def script() -> None:
        async with opened(swept, mode, run, (100, 30)) as (app, pilot):
            await pilot.resize_terminal(20, 5)
            await pilot.resize_terminal(100, 30)
            for _ in range(50 if mode == "results" else 20):
                await pilot.resize_terminal(chosen.randint(1, 200), chosen.randint(1, 60))
            await pilot.resize_terminal(100, 30)
            assert "sweep" in shown(app).splitlines()[0]
            assert app._exception is None

    play(script())


@pytest.mark.parametrize("mode", ["run", "results"])
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (None, "cannot be read as a store"),
        ("PRAGMA user_version = 99", "another version of bitsweep wrote this store"),
        (
            "UPDATE runs SET plan = json_set(plan, '$.procedures.text', 0)",
            "another version of bitsweep measured this run",
        ),
        ("UPDATE runs SET plan = '{}'", "cannot be"),
    ],
)
def test_an_unreadable_store_gives_a_message(
    own: Workspace, run: str, mode: str, statement: str | None, words: str
) -> None:
    if statement is None:
        own.database.write_bytes(b"no database " * 1000)
    else:
        with sqlite3.connect(own.database) as store:
            store.execute(statement)

    async def script() -> None:
        async with opened(own, mode, run) as (app, pilot):
            await until(pilot, lambda: words in " ".join(shown(app).split()))
            await pilot.press("o")
            await until(pilot, lambda: "reading …" not in shown(app))
            await pilot.press("escape", "2", "1", "3", "4", "question_mark")
            assert app._exception is None
        async with opened(own, mode) as (app, pilot):  # without a run's name
            await until(pilot, lambda: words in " ".join(shown(app).split()))

    play(script())


def test_an_unreadable_event_log_gives_a_message(own: Workspace, run: str) -> None:
    (own.run(run) / "events.jsonl").write_text('{"event": "started", "time": 0\n')

    async def script() -> None:
        async with opened(own, "run", run) as (app, pilot):
            await until(pilot, lambda: "this event log cannot be read (" in " ".join(shown(app).split()))

    play(script())


def test_an_unknown_run_gives_a_message(swept: Workspace) -> None:
    async def script() -> None:
        async with opened(swept, "results", "no-such-run") as (app, pilot):
            await until(pilot, lambda: "no-such-run: no such run" in shown(app))

    play(script())


@pytest.mark.parametrize(
    ("terminal", "words"),
    [("dumb", "TERM is 'dumb'"), ("", "TERM is 'not set'"), (None, "needs a terminal")],
)
def test_without_a_terminal_the_message_names_commands(tmp_path: Path, terminal: str | None, words: str) -> None:
    code, line = refused(tmp_path, {"TERM": terminal or ""}, () if terminal is not None else (0, 1, 2))
    assert code == 2
    assert words in line
    assert "sweep run" in line
    assert len(line.splitlines()) == 1


def refused(workspace: Path, environment: dict[str, str], elsewhere: tuple[int, ...]) -> tuple[int, str]:
    """The exit code of `sweep tui`, and what it prints on standard error. Its standard streams are a terminal, except
    those with the numbers `elsewhere`."""
    ours, theirs = os.openpty()
    standard = [subprocess.PIPE if number in elsewhere else theirs for number in range(3)]
    ended = subprocess.run(
        [*COMMAND, "tui", "--workspace", str(workspace)],
        stdin=subprocess.DEVNULL if standard[0] is subprocess.PIPE else theirs,
        stdout=standard[1],
        stderr=standard[2],
        cwd=ROOT,
        env=os.environ | environment,
        timeout=PATIENCE,
    )
    os.close(theirs)
    line = os.read(ours, 1 << 16) if ended.stderr is None else ended.stderr
    os.close(ours)
    return ended.returncode, line.decode()


@pytest.mark.parametrize(
    ("environment", "elsewhere", "words"),
    [
        ({}, (2,), "standard error is a pipe, a file or closed"),  # where the screen is drawn
        ({"PYTHONIOENCODING": "ascii"}, (), "the encoding is ascii; set LC_ALL=C.UTF-8"),
        ({"PYTHONIOENCODING": "latin-1"}, (), "the encoding is iso8859-1; set LC_ALL=C.UTF-8"),
    ],
)
def test_a_terminal_that_cannot_show_the_screen_is_refused(
    tmp_path: Path, environment: dict[str, str], elsewhere: tuple[int, ...], words: str
) -> None:
    code, line = refused(tmp_path, {"TERM": "xterm", **environment}, elsewhere)
    assert code == 2
    assert words in line
    assert len(line.splitlines()) == 1


def test_no_color_removes_all_colours_and_keeps_all_signs(
    swept: Workspace, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No character is coloured, and all signs are still there."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def script() -> None:
        async with opened(swept, "results", run) as (app, pilot):
            await until(pilot, lambda: "recommended" in shown(app))
            assert "NO_COLOR is set" in shown(app)
            colours = set()
            for strip in app.screen._compositor.render_strips():
                for segment in strip.apply_filter(app._filters[-1], app.screen.background_colors[1]):
                    if segment.style is not None and segment.style.color is not None:
                        colours.add(tuple(segment.style.color.get_truecolor()))
            assert colours
            assert all(red == green == blue for red, green, blue in colours)

    play(script())


def test_the_command_line_does_not_load_textual() -> None:
    code = "import sys; import sweep.cli.app, sweep.commands.run, sweep.report.html; print('textual' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.strip() == "False", ended.stderr
