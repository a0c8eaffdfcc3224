"""A line above a table that leaves only rows with what is typed in their name; hidden until it is asked for."""

from __future__ import annotations

from textual import on
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.reactive import Reactive
from textual.widgets import Input

from tui.widgets.table import Table

# For the screen that has one; its actions call `open` and `close`.
FILTER_KEYS = (
    Binding("slash", "filter", "Filter", key_display="/", show=False, tooltip="Show only rows with this in their name"),
    Binding("escape", "clear", "Clear", show=False),
)


class Filter(Input):
    """Of the screen's one table, which has the focus again after enter."""

    class Typed(Message):
        """It leaves other rows than before."""

    virtual_size = Reactive(Size(0, 0))  # its place is given: a letter more does not lay the screen out anew

    def __init__(self) -> None:
        super().__init__(placeholder="filter by name", id="filter", classes="hidden", compact=True)

    def leaves(self, name: str) -> bool:
        """Whether a row of this name is shown."""
        return self.value.strip().lower() in name.lower()

    def open(self) -> None:
        self.remove_class("hidden")
        self.focus()

    def close(self) -> bool:
        """Leave every row, and the focus to the table; gives whether it was open."""
        was_open = not self.has_class("hidden")
        self.value = ""
        self.add_class("hidden")
        self.screen.query_one(Table).focus()
        return was_open

    def allow_focus(self) -> bool:
        """Not while it is hidden: a screen would begin in it."""
        return not self.has_class("hidden")

    @on(Input.Changed)
    def _changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Typed())

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.screen.query_one(Table).focus()
