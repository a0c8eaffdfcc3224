"""A form field with a few values to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import RenderResult
from textual.binding import BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from tui.keymap import bind
from tui.theme import palette


class Choice(Widget, can_focus=True):
    """One of `values`, or "" for the default that `placeholder` names. Keys and clicks go through the values."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("select", "turn(1)", "Next value"),
        bind("right", "turn(1)", "Next value"),
        bind("left", "turn(-1)", "Previous value"),
    ]

    value: reactive[str] = reactive("")
    placeholder: reactive[str] = reactive("")

    class Changed(Message):
        """The value was changed."""

        def __init__(self, choice: Choice) -> None:
            self.choice = choice
            super().__init__()

        @property
        def control(self) -> Choice:
            return self.choice

    def __init__(self, values: Sequence[str], *, name: str, id: str, classes: str) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._values = ("", *values)

    def render(self) -> RenderResult:
        colours = palette(self.app)
        shown = Text(self.value or self.placeholder, colours.ink if self.value else colours.faint, no_wrap=True)
        return shown.append("  ◂ ▸", colours.accent) if self.has_focus else shown

    def action_turn(self, step: int) -> None:
        self.value = self._values[(self._values.index(self.value) + step) % len(self._values)]
        self.post_message(self.Changed(self))

    def on_click(self) -> None:
        self.action_turn(1)
