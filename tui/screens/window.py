"""Base of all windows over a screen: a frame with a title; escape closes it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, TypeVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.keymap import bind
from tui.workers import WorkerHost


def replace_question(file: Path) -> str:
    """What a window says before it replaces a file that the user named."""
    return f"{file}: a file with other content exists; press enter again to replace it, or change the name"


Answer = TypeVar("Answer")


class Window(WorkerHost, ModalScreen[Answer]):
    """`title` is at the top of the frame, `hint` at its foot; the hint names the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [bind("close", "close", "Close"), bind("quit", "close", "Close")]

    def __init__(self, title: str, hint: str = "esc close") -> None:
        super().__init__()
        self._title, self._hint = title, hint

    def compose(self) -> ComposeResult:
        with Vertical(id="window") as frame:
            frame.border_title = self._title
            frame.border_subtitle = self._hint
            yield from self.content()

    def content(self) -> ComposeResult:
        """The widgets inside the frame."""
        yield Static()

    def action_close(self) -> None:
        self.dismiss(None)
