"""Checks that the terminal can show the screen, and ends the program when the terminal is closed."""

from __future__ import annotations

import os
import signal
import sys

from converters.errors import InputError

INSTEAD = "these commands need none: `sweep fit`, `sweep run`, `sweep report`"


def require_terminal() -> None:
    """Raise InputError if there is no terminal or only a dumb one; the message names the commands to use instead."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError(f"the screen needs a terminal, but this is a pipe or a file; {INSTEAD}")
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb", "unknown"):
        raise InputError(
            f"the screen needs a terminal that can move its cursor, but TERM is {kind or 'not set'!r}; {INSTEAD}"
        )


def end_with_terminal() -> None:
    """Let this process end when its terminal is closed, even under nohup. Otherwise Textual would read forever."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
