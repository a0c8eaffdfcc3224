"""A window to choose which columns of a table are shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType

from tui.keymap import bind
from tui.screens.window import Window
from tui.theme import palette
from tui.widgets.table import Table

HEADS = (("", True), ("column", True))


class ColumnsScreen(Window[frozenset[str]]):
    """Returns the hidden columns, also if it is closed with escape."""

    BINDINGS: ClassVar[list[BindingType]] = [bind("select", "turn", "Show or hide the column")]

    def __init__(self, columns: Sequence[str], hidden: Collection[str]) -> None:
        super().__init__("Columns", "space show or hide · esc close")
        self._columns = columns
        self._hidden = frozenset(hidden)

    def content(self) -> ComposeResult:
        yield Table(fixed=2)

    def on_mount(self) -> None:
        self._fill()
        self.query_one(Table).focus()

    def _fill(self) -> None:
        colours = palette(self.app)
        signs = {name: Text(" " if name in self._hidden else "✓", colours.good) for name in self._columns}
        self.query_one(Table).fill(HEADS, [(name, [sign, Text(name, colours.ink)]) for name, sign in signs.items()])

    def action_turn(self) -> None:
        name = self.query_one(Table).highlighted
        if name is not None:
            self._hidden = self._hidden ^ {name}
            self._fill()

    @on(Table.Chosen)
    def _chosen(self) -> None:
        self.action_close()

    def action_close(self) -> None:
        self.dismiss(self._hidden)
