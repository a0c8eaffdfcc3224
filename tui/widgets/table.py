"""A table with one line per row, and with vi keys, arrows and the mouse to move.

Textual's DataTable draws and measures all visible cells again when one of them changes. This table draws only the lines
that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.keymap import bind
from tui.widgets.text_pane import segments

PADDING = 1  # columns at each side of a cell
SIDEWAYS = 8  # columns that a key scrolls by if rows are wider than the table

Head = tuple[str, bool]  # text, and whether the column is aligned left
Row = tuple[str, Sequence[Text]]  # key, and a text for each head


class Table(ScrollView, can_focus=True):
    """A row is highlighted or, with `cursor` "cell", one cell, never in the first column, which then does not scroll.

    Rows have keys: the same row stays highlighted when the table is filled again.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("down", "move(1)"),
        bind("up", "move(-1)"),
        bind("first", "move(-1000000)"),
        bind("last", "move(1000000)"),
        bind("page-down", "page(1)"),
        bind("page-up", "page(-1)"),
        bind("left", "sideways(-1)"),
        bind("right", "sideways(1)"),
        bind("open", "choose", "Open"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--head", "table--cursor"}
    DEFAULT_CSS = """
    Table {
        height: auto;
        color: $foreground;
        & > .table--head { background: $background; color: $text-muted; }
        &:focus > .table--head { background-tint: $foreground 5%; }
        & > .table--cursor { background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground; }
        &:focus > .table--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    }
    """

    class TableMessage(Message):
        """Base of the messages of a table."""

        def __init__(self, table: Table) -> None:
            self.table = table
            super().__init__()

        @property
        def control(self) -> Table:
            return self.table

    class Highlighted(TableMessage):
        """The highlight moved to another row or cell, by a key, the mouse or `go_to`."""

    class Chosen(TableMessage):
        """The highlighted row or cell was chosen, by enter or a click on it."""

    class HeadClicked(TableMessage):
        """The head of a column was clicked."""

        def __init__(self, table: Table, head: str) -> None:
            self.head = head
            super().__init__(table)

    empty: reactive[str] = reactive("")  # what is shown if there are no rows

    def __init__(
        self, *, cursor: Literal["row", "cell"] = "row", show_head: bool = True, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._by_cell = cursor == "cell"
        self._head_lines = int(show_head)
        self._heads: tuple[Head, ...] = ()
        self._widths: list[int] = []
        self._keys: list[str] = []
        self._rows: list[Sequence[Text]] = []
        self._room = 0
        self.cursor_row, self.cursor_column = 0, int(self._by_cell)

    # --- what it holds ----------------------------------------------------------------------------------------------

    @property
    def row_count(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> list[str]:
        """The keys of the rows, in order."""
        return list(self._keys)

    @property
    def heads(self) -> list[str]:
        return [name for name, _ in self._heads]

    @property
    def highlighted(self) -> str | None:
        """The key of the highlighted row."""
        return self._keys[self.cursor_row] if self._keys else None

    def fill(self, heads: Sequence[Head], rows: Sequence[Row], at: str | None = None, room: int = 0) -> None:
        """Show these rows under these heads. The same row stays highlighted, or the row with the key `at`.

        The table keeps the height of `room` rows even if there are fewer, so that widgets below do not move. Only lines
        that changed are drawn.
        """
        self._room = room
        key, before = at or self.highlighted, (self._heads, self._widths, self._keys, self._rows)
        self._heads, self._keys = tuple(heads), [row_key for row_key, _ in rows]
        self._rows = [cells for _, cells in rows]
        self._widths = [
            max([cell_len(name), *(cells[column].cell_len for cells in self._rows)])
            for column, (name, _) in enumerate(heads)
        ]
        row_before = self.cursor_row
        self.cursor_column = max(int(self._by_cell), min(self.cursor_column, len(self._heads) - 1))
        self.cursor_row = self._keys.index(key) if key in self._keys else 0
        if before[:3] != (self._heads, self._widths, self._keys):
            wide = sum(self._widths) + 2 * PADDING * len(self._widths)
            self.virtual_size = Size(wide, len(rows) + self._head_lines)
            self.refresh()
        else:
            differ = [row for row, pair in enumerate(zip(before[3], self._rows, strict=True)) if not _same(*pair)]
            for row in {*differ, *({row_before, self.cursor_row} if row_before != self.cursor_row else ())}:
                self._draw_row(row)
        self.call_after_refresh(self._show_cursor)

    # --- moving -----------------------------------------------------------------------------------------------------

    def go_to(self, key: str, column: int | None = None) -> None:
        """Highlight the row with this key, if there is one."""
        if key in self._keys:
            self._move_to(self._keys.index(key), self.cursor_column if column is None else column)

    def action_move(self, lines: int) -> None:
        self._move_to(self.cursor_row + lines, self.cursor_column)

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(self.size.height - self._head_lines, 1))

    def action_sideways(self, columns: int) -> None:
        if self._by_cell:
            self._move_to(self.cursor_row, self.cursor_column + columns)
        else:
            self.scroll_relative(x=SIDEWAYS * columns, animate=False)

    def action_choose(self) -> None:
        if self._keys:
            self.post_message(self.Chosen(self))

    def on_click(self, event: Click) -> None:
        row = event.y - self._head_lines + self.scroll_offset.y
        column = self._column_at(event.x)
        if event.y < self._head_lines:
            if column is not None:
                self.post_message(self.HeadClicked(self, self._heads[column][0]))
        elif row < len(self._rows):
            at = self.cursor_column if column is None or not self._by_cell else column
            if (row, at) == (self.cursor_row, self.cursor_column):
                self.action_choose()
            else:
                self._move_to(row, at)

    def _move_to(self, row: int, column: int) -> None:
        row = max(0, min(row, len(self._rows) - 1))
        column = max(int(self._by_cell), min(column, len(self._heads) - 1))
        if (row, column) != (self.cursor_row, self.cursor_column):
            self._draw_row(self.cursor_row)
            self.cursor_row, self.cursor_column = row, column
            self._draw_row(row)
            self.post_message(self.Highlighted(self))
        self._show_cursor()

    def _show_cursor(self) -> None:
        """Scroll to the cursor if it is not visible."""
        left, top = self.scroll_offset
        room = max(self.size.height - self._head_lines, 1)
        above = max(self.cursor_row - room + 1, min(top, self.cursor_row))
        sideways = left
        if self._by_cell and self._widths:
            start = self._start(self.cursor_column)
            end = start + self._widths[self.cursor_column] + 2 * PADDING
            sideways = max(end - self.size.width, min(left, start - self._start(1)))
        if (sideways, above) != (left, top):
            self.scroll_to(sideways, above, animate=False)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._head_lines + max(len(self._rows), self._room)

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _draw_row(self, row: int) -> None:
        self.refresh(Region(0, row + self._head_lines - self.scroll_offset.y, self.size.width, 1))

    def _start(self, column: int) -> int:
        """The first character of a column, without scrolling."""
        return sum(self._widths[:column]) + 2 * PADDING * column

    def _column_at(self, x: int) -> int | None:
        """The column that is shown at this place."""
        x += 0 if self._by_cell and self._widths and x < self._start(1) else self.scroll_offset.x
        return next((column for column in range(len(self._widths)) if x < self._start(column + 1)), None)

    def render_line(self, y: int) -> Strip:
        ground, width = self.rich_style, self.size.width
        row = y - self._head_lines + self.scroll_offset.y
        cursor = None
        if y < self._head_lines:
            ground += self.get_component_rich_style("table--head")
            cells: Sequence[Text] = [Text(name) for name, _ in self._heads]
        elif row < len(self._rows):
            cells = self._rows[row]
            cursor = self.get_component_rich_style("table--cursor") if row == self.cursor_row else None
        elif row == 0 and self.empty:
            words = [Segment(" " * PADDING, ground), Segment(self.empty, ground)]
            return Strip(words).adjust_cell_length(width, ground)
        else:
            return Strip.blank(width, ground)
        parts = [self._cell(column, cell, ground) for column, cell in enumerate(cells)]
        if cursor is not None and self._by_cell:
            parts[self.cursor_column] = _over(parts[self.cursor_column], cursor)
        fixed = Strip(chain.from_iterable(parts[: int(self._by_cell)]))
        strip = Strip(chain.from_iterable(parts[int(self._by_cell) :]))
        left = self.scroll_offset.x
        strip = Strip.join([fixed, strip.crop(left, left + width - fixed.cell_length)])
        strip = strip.adjust_cell_length(width, ground)
        return Strip(_over(list(strip), cursor), width) if cursor is not None and not self._by_cell else strip

    def _cell(self, column: int, cell: Text, ground: Style) -> list[Segment]:
        space = self._widths[column] - cell.cell_len
        before, after = (0, space) if self._heads[column][1] else (space, 0)
        shown = segments(cell, self.app.console, ground)
        return [Segment(" " * (PADDING + before), ground), *shown, Segment(" " * (PADDING + after), ground)]


def _over(segments: Sequence[Segment], cursor: Style) -> list[Segment]:
    """The segments in the colours of the cursor, which override those of a cell."""
    colours = Style.from_color(cursor.color, cursor.bgcolor)
    return list(Segment.apply_style(segments, None, colours))


def _same(some: Sequence[Text], others: Sequence[Text]) -> bool:
    """Whether two rows look the same. (Rich compares texts without their style.)"""
    return all(one == other and one.style == other.style for one, other in zip(some, others, strict=True))
