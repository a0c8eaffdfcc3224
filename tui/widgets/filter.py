"""A line above a table that shows only rows whose name contains the typed text; hidden until it is opened."""

from __future__ import annotations

from collections.abc import Sequence

from textual import on
from textual.geometry import Size
from textual.message import Message
from textual.reactive import Reactive
from textual.widgets import Input

from tui.keymap import bind
from tui.widgets.table import Row, Table

# For screens with a filter. Their actions `filter` and `clear` call `open` and `close`.
FILTER_KEYS = (
    bind("filter", "filter", "Filter", tooltip="Show only rows with this in their name"),
    bind("close", "clear", "Clear"),
)


class Filter(Input):
    """Filters the only table of the screen. Enter moves the focus back to the table."""

    class Typed(Message):
        """The text was changed."""

    virtual_size = Reactive(Size(0, 0))  # its size is fixed, so that typing does not lay the screen out again

    def __init__(self) -> None:
        super().__init__(placeholder="filter by name", id="filter", classes="hidden", compact=True)

    def matches(self, name: str) -> bool:
        """Whether a row of this name is shown."""
        return self.value.strip().lower() in name.lower()

    def arranged(self, rows: Sequence[Row]) -> list[Row]:
        """The rows whose keys match, with the row of exactly this name first. Lets the table say so if none does."""
        typed = self.value.strip().lower()
        found = [row for row in rows if self.matches(row[0])]
        self.screen.query_one(Table).empty = f"no name contains “{self.value.strip()}”; esc shows all" if typed else ""
        return sorted(found, key=lambda row: row[0].lower() != typed) if typed else found

    def open(self) -> None:
        self.remove_class("hidden")
        self.focus()

    def close(self) -> bool:
        """Show all rows and give the focus to the table. Returns whether the filter was open."""
        was_open = not self.has_class("hidden")
        self.value = ""
        self.add_class("hidden")
        self.screen.query_one(Table).focus()
        return was_open

    def allow_focus(self) -> bool:
        """Not while it is hidden: otherwise the screen would start with the focus in it."""
        return not self.has_class("hidden")

    @on(Input.Changed)
    def _changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Typed())

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.screen.query_one(Table).focus()
