"""Asks what to do with a running sweep when the screen is quit."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from converters.shell import join
from sweep.workspace import Workspace
from tui.keymap import bind
from tui.screens.window import Window


class QuitScreen(Window[str | None]):
    """Returns "leave", "pause" or None. `run` is None if the sweep has not reported its run yet."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("open", "answer('leave')", "Let it run"),
        bind("quit", "answer('leave')", "Let it run"),
        bind("pause", "answer('pause')", "Pause it"),
    ]

    def __init__(self, run: str | None, workspace: Workspace) -> None:
        super().__init__("A sweep is running", "q let it run · p pause it · esc stay")
        self._run, self._workspace = run, workspace

    def content(self) -> ComposeResult:
        again = join(["sweep", "tui", *([self._run] if self._run else []), *self._workspace.arguments])
        yield Static(
            f"{self._run or 'The sweep'} continues without the screen; `{again}` shows it again.\n\n"
            "q  quit and let it run\np  quit, and stop it after the running job\nesc  stay",
            markup=False,
        )

    def action_answer(self, answer: str) -> None:
        self.dismiss(answer)
