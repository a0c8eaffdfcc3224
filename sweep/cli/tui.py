"""`sweep tui`: the terminal screen."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from sweep.cli.output import WORKSPACE


def tui(
    run: str | None = typer.Argument(None, help="A run's id, or the beginning of one, to look at or to watch."),
    workspace: Path | None = WORKSPACE,
) -> None:
    """See what fits, plan, watch and read sweeps in one place; a sweep goes on when the screen is closed."""
    # Frames as often as Textual is asked for when it is loaded: what a key brings about may take two, and it waits
    # between them.
    os.environ.setdefault("TEXTUAL_FPS", "120")
    # The one import upwards: the command line is the door to the screen. It is late, so that nothing else loads
    # Textual, and named in the import contracts.
    from tui.app import start

    start(workspace, run)
