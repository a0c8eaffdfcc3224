"""Checks that the terminal can show the screen, and ends the program when the terminal is closed."""

from __future__ import annotations

import codecs
import os
import signal
import sys

from converters.errors import InputError

INSTEAD = "these commands need none: `sweep fit`, `sweep run`, `sweep report`"


def require_terminal() -> None:
    """Raise InputError if there is no terminal or only a dumb one; the message names the commands to use instead."""
    for number, name in enumerate(("input", "output", "error")):  # the screen is drawn on standard error
        if not os.isatty(number):
            raise InputError(f"the screen needs a terminal, but standard {name} is a pipe, a file or closed; {INSTEAD}")
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb", "unknown"):
        raise InputError(
            f"the screen needs a terminal that can move its cursor, but TERM is {kind or 'not set'!r}; {INSTEAD}"
        )
    encoding = codecs.lookup(sys.__stderr__.encoding).name if sys.__stderr__ is not None else "utf-8"
    if encoding != "utf-8":
        raise InputError(
            f"the screen needs a terminal with UTF-8, but the encoding is {encoding}; set LC_ALL=C.UTF-8 and unset "
            f"PYTHONIOENCODING; {INSTEAD}"
        )


def end_with_terminal() -> None:
    """Let this process end when its terminal is closed, even under nohup. Otherwise Textual would read forever."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
