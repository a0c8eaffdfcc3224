"""Helpers that drive the application with keys and clicks, and wait until their effect is drawn."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual import app as textual_app
from textual.app import App
from textual.color import Color
from textual.events import Callback
from textual.pilot import Pilot

from sweep.commands.launch import Command
from sweep.workspace import Workspace
from tui.app import SweepApp
from tui.screens.run import RunScreen

COMMAND = (sys.executable, "-c", "from sweep.cli import main; main()")
ROOT = Path(__file__).parents[2]
PICTURES = Path(__file__).parent / "pictures"
QUIET = 2  # times in a row without a message left, after which everything is drawn
ROUNDS = 3  # of the drawing of the screen each time: a message, the refresh that it asks for, the events of the layout
TURNS = 3  # of the event loop in a round
PATIENCE = 60.0  # seconds, for what a loaded machine takes; nothing is timed


def stored_answer(name: str) -> Any:
    """An answer of the command line that the pictures show, fit or plan."""
    return json.loads((PICTURES / f"{name}.json").read_text())


def arguments(text: Path, limit: int = 4) -> tuple[str, ...]:
    """A sweep of two variants and their reference that takes seconds."""
    short = ("--tasks", "micro_form", "--limit", str(limit), "--perplexity", str(text))
    return ("run", "micro", "--variants", "=Q4_K_M,Q2_K", *short)


def sweep(*given: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of `sweep` in its own process."""
    return subprocess.run([*COMMAND, *given], capture_output=True, text=True, timeout=300, cwd=ROOT, **more)


class Driver(Pilot[None]):
    """Presses keys and clicks as Pilot does. Each call returns when its effect is drawn.

    Textual's own Pilot waits until the process takes little CPU time, which is slow, and on a busy machine also holds
    for a process that waits for its turn. Workers are not waited for: see `until`.
    """

    async def pause(self, delay: float | None = None) -> None:
        """Wait until everything is drawn, after `delay` seconds. Pilot pauses before and after events of the mouse."""
        await asyncio.sleep(delay or 0)
        await settled(self)

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.app._press_keys([key])
            await settled(self)

    async def click(self, *given: Any, **more: Any) -> bool:
        hit = await super().click(*given, **more)
        await settled(self)
        return hit

    async def resize_terminal(self, width: int, height: int) -> None:
        await super().resize_terminal(width, height)
        await settled(self)


@asynccontextmanager
async def opened(
    workspace: Workspace, first: str, run: str | None = None, size: tuple[int, int] = (120, 36)
) -> AsyncIterator[tuple[SweepApp, Driver]]:
    """The application on a screen of this size. Errors of its workers are raised here."""
    app = SweepApp(workspace, run, first)
    async with app.run_test(size=size, notifications=True):
        driver = Driver(app)
        await settled(driver)
        yield app, driver


async def _turn(*_: float) -> None:
    await asyncio.sleep(0)


textual_app.wait_for_idle = _turn  # type: ignore[attr-defined]  # after a key: `settled` waits for what it does


async def settled(pilot: Pilot[None]) -> None:
    """Wait until no widget has a message left to handle and everything is drawn.

    A message, the refresh that it asks for and the events of the layout that follows are up to three rounds. A new size
    of the terminal is passed to the screen by a timer, which is late on a busy machine.
    """
    quiet, end = 0, time.monotonic() + PATIENCE
    while quiet < QUIET and pilot.app.is_running and not pilot.app._exit:
        if time.monotonic() > end:
            busy = [one for one in (pilot.app, *pilot.app.screen.walk_children()) if one.message_queue_size]
            raise AssertionError(f"never settled: size {pilot.app._resize_event}, messages for {busy}")
        await Barrier().passed(pilot.app)
        pilot.app.screen._on_timer_update()  # draws
        quiet = quiet + 1 if await stays_quiet(pilot.app) else 0


async def stays_quiet(app: App[None]) -> bool:
    """Whether nothing is left to handle in three rounds, in which every task gets its turn and the screen draws."""
    for _ in range(ROUNDS):
        for _ in range(TURNS):
            await asyncio.sleep(0)
        app.screen._on_timer_update()
        widgets = [app, *app.screen.walk_children(with_self=True)]
        if app._resize_event is not None or any(widget.message_queue_size for widget in widgets):
            return False
    return True


class Barrier:
    """Is passed when every widget has handled the messages that waited for it.

    `Pilot.pause` does the same, but Textual then inspects the signature of a function that is new to it, once for every
    widget.
    """

    def __init__(self) -> None:
        self._left = 0
        self._passed = asyncio.Event()

    async def passed(self, app: App[None]) -> None:
        """Wait for the widgets of the screen, or until an error of the application ends it."""
        for pump in (app, *app.screen.walk_children(with_self=True)):
            self._left += pump.post_message(Callback(callback=self.arrive))
        waits = [asyncio.ensure_future(one.wait()) for one in (self._passed, app._exception_event)]
        if self._left:
            await asyncio.wait(waits, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()

    def arrive(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._passed.set()


async def until(pilot: Pilot[None], condition: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait until a condition holds and the screen is drawn."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"the condition was never met; on the screen:\n{shown(pilot.app)}")
        await asyncio.sleep(0.05)
    await settled(pilot)


def begin(app: SweepApp, command: Command) -> None:
    """Start a sweep, as R of the Run screen does, and watch it there."""
    app.session.start_sweep(command)
    if isinstance(app.screen, RunScreen):
        app.screen.watch_run()
    else:
        app.switch_mode("run")


def shown(app: Any) -> str:
    """The characters on the screen, without lines that are empty. An exported screenshot takes five times as long."""
    drawn = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    lines = ("".join(strip.text for strip in line).replace("\xa0", " ").rstrip() for line in drawn.strips)
    return "\n".join(line for line in lines if line)


def pale_words(app: SweepApp) -> list[tuple[str, float]]:
    """Words on the screen, or in the window over it, whose contrast with their background is below 4.5, the least that
    WCAG 2 allows (AA). Themes with the terminal's own colours are left out."""
    windows = app.screen.query("#window, CommandPalette > Vertical")
    frame = windows.first().region if windows else app.screen.region
    found = []
    for strip in app.screen._compositor.render_strips()[frame.y : frame.bottom]:
        for segment in strip.crop(frame.x, frame.right):
            style = segment.style
            if style is None or style.color is None or style.bgcolor is None or not re.search(r"\w", segment.text):
                continue
            colour, ground = Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
            if colour.ansi is None and ground.ansi is None and wcag_contrast(colour, ground) < 4.5:
                found.append((segment.text.strip(), round(wcag_contrast(colour, ground), 2)))
    return found


def wcag_contrast(one: Color, other: Color) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""

    def luminance(colour: Color) -> float:
        parts = [part / 255 for part in colour.rgb]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def play(script: Coroutine[Any, Any, None]) -> None:
    asyncio.run(script)
