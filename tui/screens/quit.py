"""Asks what to do with a running sweep when the screen is quit."""

from __future__ import annotations

import shlex
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from tui.keymap import bind
from tui.screens.window import Window


class QuitScreen(Window[str | None]):
    """Returns "leave", "pause" or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("open", "answer('leave')", "Let it run"),
        bind("quit", "answer('leave')", "Let it run"),
        bind("pause", "answer('pause')", "Pause it"),
    ]

    def __init__(self, run: str) -> None:
        super().__init__("A sweep is running", "q let it run · p pause it · esc stay")
        self._run = run

    def content(self) -> ComposeResult:
        yield Static(
            f"{self._run} continues without the screen; `sweep tui {shlex.quote(self._run)}` shows it again.\n\n"
            "q  quit and let it run\np  quit, and stop it after the running job\nesc  stay",
            markup=False,
        )

    def action_answer(self, answer: str) -> None:
        self.dismiss(answer)
