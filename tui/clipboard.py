"""Copies a command: to the clipboard if the terminal is known to take it, otherwise as text that can be selected."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping

from textual.app import App, SuspendNotSupported

# Terminals that take text for the clipboard (OSC 52) unless they are set not to, by a variable that they set and the
# beginning of its value. A terminal does not answer whether it took the text. xterm, iTerm2 and mintty take none by
# default, Terminal.app and terminals with VTE (GNOME) cannot. TERM is also known at the other end of an ssh connection.
_TAKES = (
    ("TERM", "alacritty"),
    ("TERM", "foot"),
    ("TERM", "wezterm"),
    ("TERM", "xterm-ghostty"),
    ("TERM", "xterm-kitty"),
    ("TERM_PROGRAM", "WezTerm"),
    ("TERM_PROGRAM", "ghostty"),
    ("WT_SESSION", ""),  # Windows Terminal
)
_BETWEEN = ("TMUX", "STY", "ZELLIJ")  # programs between us and the terminal, which decide by their own settings


def takes_clipboard(environment: Mapping[str, str]) -> bool:
    """Whether the terminal is known to take text for the clipboard."""
    if any(name in environment for name in _BETWEEN):
        return False
    return any(name in environment and environment[name].startswith(start) for name, start in _TAKES)


def copy(app: App[None], text: str) -> None:
    """Send the text to the terminal's clipboard. If it is not known to arrive there, also show it without the screen,
    where the mouse selects it as in every other program."""
    app.copy_to_clipboard(text)
    if takes_clipboard(os.environ):
        app.notify(text, title="Copied")
        return
    try:
        with app.suspend():
            _show_until_enter(text)
    except SuspendNotSupported:  # there is no terminal of our own, as in a browser
        app.notify(text, title="This terminal may have no clipboard")


def _show_until_enter(text: str) -> None:
    """Print the text on the terminal and wait for enter. Ctrl+C, with which some terminals copy, ends only the wait."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(f"\nThis terminal may not have taken the command. Select and copy it:\n\n{text}\n")
        print("Press enter to go back to the screen.", flush=True)
        sys.stdin.readline()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, handler)
