"""The terminal that the screen stands on: whether it can show one at all, and when it goes away."""

from __future__ import annotations

import os
import signal
import sys

from converters.errors import InputError

INSTEAD = "these commands need none: `sweep fit`, `sweep run`, `sweep report`"


def refuse_without_terminal() -> None:
    """Raise InputError, naming the commands to use instead, where this is no terminal, or a dumb one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError(f"the screen needs a terminal, but this is a pipe or a file; {INSTEAD}")
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb", "unknown"):
        raise InputError(
            f"the screen needs a terminal that can move its cursor, but TERM is {kind or 'not set'!r}; {INSTEAD}"
        )


def end_with_terminal() -> None:
    """Let this process end when its terminal is closed, also below nohup: Textual would go on reading its end."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
