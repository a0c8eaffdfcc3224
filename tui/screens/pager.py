"""A window with text to scroll: details of a variant, a comparison, the log of a job."""

from __future__ import annotations

from typing import ClassVar

from rich.console import RenderableType
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from tui.keymap import bind
from tui.screens.window import Window


class PagerScreen(Window[None]):
    """Scrolls with j and k or the arrows. Escape and q close it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("down", "scroll(1)"),
        bind("up", "scroll(-1)"),
        bind("first", "scroll(-100000)", "First line"),
        bind("last", "scroll(100000)", "Last line"),
    ]

    def __init__(self, title: str, content: RenderableType) -> None:
        super().__init__(title, "j k scroll · esc close")
        self._content = content

    def content(self) -> ComposeResult:
        with VerticalScroll(id="page"):
            yield Static(self._content, id="text")

    def replace(self, content: RenderableType) -> None:
        """Show other content."""
        self.query_one("#text", Static).update(content)

    def action_scroll(self, lines: int) -> None:
        self.query_one("#page").scroll_relative(y=lines, animate=False)
