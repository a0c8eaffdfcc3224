"""Asks once before a sweep is started, with what it will cost."""

from __future__ import annotations

from typing import ClassVar

from rich.console import RenderableType
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from tui.keymap import bind
from tui.screens.window import Window


class StartScreen(Window[bool]):
    """Returns True if the sweep is to start. `cost` shows its jobs, time, disk space and memory."""

    BINDINGS: ClassVar[list[BindingType]] = [bind("open", "start", "Start the sweep")]

    def __init__(self, run: str, cost: RenderableType) -> None:
        super().__init__("Start this sweep?", "enter start · esc back")
        self._run, self._cost = run, cost

    def content(self) -> ComposeResult:
        yield Static(self._run, classes="words", markup=False)
        yield Static(self._cost)

    def action_start(self) -> None:
        self.dismiss(True)
