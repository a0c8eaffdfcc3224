"""A table of rows to move through with the keys of vi as well as with arrows and the mouse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

PADDING = 1  # columns at each side of a cell


class Table(DataTable[Any]):
    """A row is highlighted, never a cell. Rows have keys: the highlighted one stays when they are filled anew."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
        Binding("h", "scroll_left", "Left", show=False),
        Binding("l", "scroll_right", "Right", show=False),
        Binding("ctrl+d", "page_down", "Page down", show=False),
        Binding("ctrl+u", "page_up", "Page up", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", cell_padding=PADDING, header_height=1)
        self._heads: tuple[tuple[str, bool], ...] = ()

    @property
    def highlighted(self) -> str | None:
        """The key of the highlighted row."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def fill(
        self, heads: Sequence[tuple[str, bool]], rows: Sequence[tuple[str, Sequence[Text]]], at: str | None = None
    ) -> None:
        """Show other rows, (key, cells), under heads, (name, whether aligned left); the same row stays highlighted.

        `at` is the key of the row to highlight instead.
        """
        wanted = at or self.highlighted
        left, top = self.scroll_offset
        with self.app.batch_update():
            self.clear(columns=True)
            self._heads = tuple(heads)
            for index, (name, is_left) in enumerate(heads):
                # as wide as its widest cell, said here: measured later, rows are drawn before and stay so
                wide = max([len(name), *(cells[index].cell_len for _, cells in rows)])
                self.add_column(Text(name, justify="left" if is_left else "right"), width=wide, key=str(index))
            for key, cells in rows:
                for cell, (_, is_left) in zip(cells, heads, strict=True):
                    cell.justify = "left" if is_left else "right"
                    cell.no_wrap = True
                self.add_row(*cells, key=key)
            keys = [key for key, _ in rows]
            if wanted in keys:
                self.move_cursor(row=keys.index(wanted), scroll=False)
            self.scroll_to(left, top, animate=False)
            self.call_after_refresh(self._show_cursor)

    def _show_cursor(self) -> None:
        """Once the rows have been laid out; wherever the cursor is by then."""
        self.move_cursor(row=self.cursor_row)

    def go_to(self, key: str) -> None:
        """Highlight the row of this key, if it is there."""
        if key in self.rows:
            self.move_cursor(row=self.get_row_index(key))

    def action_scroll_left(self) -> None:
        self.scroll_relative(x=-8, animate=False)

    def action_scroll_right(self) -> None:
        self.scroll_relative(x=8, animate=False)
