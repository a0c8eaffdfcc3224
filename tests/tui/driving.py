"""Driving the application as a person would, and waiting for what comes of it."""

from __future__ import annotations

import asyncio
import html
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from sweep.workspace import Workspace
from tui.app import SweepApp

COMMAND = (sys.executable, "-c", "from sweep.cli import main; main()")
ROOT = Path(__file__).parents[2]
CELL = 12.2  # units of a character in an exported picture
PATIENCE = 60.0  # seconds, for what a loaded machine takes; nothing is timed


def arguments(text: Path, limit: int = 4) -> tuple[str, ...]:
    """A sweep of two variants and their reference that takes seconds."""
    short = ("--tasks", "micro_form", "--limit", str(limit), "--perplexity", str(text))
    return ("run", "micro", "--variants", "=Q4_K_M,Q2_K", *short)


def sweep(*given: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    return subprocess.run([*COMMAND, *given], capture_output=True, text=True, timeout=300, cwd=ROOT, **more)


@asynccontextmanager
async def opened(
    workspace: Workspace, first: str, run: str | None = None, size: tuple[int, int] = (120, 36)
) -> AsyncIterator[tuple[SweepApp, Pilot[None]]]:
    """The application on a screen of this size. What a worker raises, this raises."""
    app = SweepApp(workspace, run, first)
    async with app.run_test(size=size, notifications=True) as pilot:
        await pilot.pause()
        yield app, pilot


async def until(pilot: Pilot[None], condition: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait for something to come about."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never came about; on the screen:\n{shown(pilot.app)}")
        await pilot.pause(0.05)


def shown(app: Any) -> str:
    """The characters on the screen, from its own picture of itself."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for found in re.finditer(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', app.export_screenshot()):
        lines.setdefault(float(found[2]), []).append((float(found[1]), html.unescape(found[3])))
    rows = []
    for _, parts in sorted(lines.items()):
        row = ""
        for x, words in sorted(parts):
            row = row.ljust(round(x / CELL)) + words
        rows.append(row.replace("\xa0", " ").rstrip())
    return "\n".join(rows)


def play(script: Coroutine[Any, Any, None]) -> None:
    asyncio.run(script)
