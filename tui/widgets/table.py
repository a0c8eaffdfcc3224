"""A table with one line per row, and with vi keys, arrows and the mouse to move.

Textual's DataTable draws and measures all visible cells again when one of them changes. This table draws only the lines
that changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import BindingType
from textual.events import Click, MouseScrollLeft, MouseScrollRight
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.keymap import bind
from tui.widgets.text_pane import segments

PADDING = 1  # columns at each side of a cell
CUT = "more ›"  # in the head line, if the last column goes on beyond the edge

Head = tuple[str, bool]  # text, and whether the column is aligned left
Row = tuple[str, Sequence[Text]]  # key, and a text for each head


@dataclass(frozen=True)
class View:
    """The columns that are shown and where they start. `before` and `after` are the numbers of columns that are not
    shown at either side; `before_at` and `after_at` are the places of the signs for them."""

    starts: Mapping[int, int]
    before: int = 0
    after: int = 0
    before_at: int = 0
    after_at: int = 0

    @property
    def signs(self) -> list[tuple[int, str]]:
        found = [(self.before_at, f"‹ {self.before}")] if self.before else []
        return [*found, *([(self.after_at, f"{self.after} more ›")] if self.after else [])]


def view(widths: Sequence[int], fixed: int, first: int, width: int) -> View:
    """What is shown of columns of these widths (with padding) in `width` characters: the first `fixed` columns, then
    whole columns from column `first` on, at least one. If columns are left out, there is room for a sign."""
    starts = {column: sum(widths[:column]) for column in range(min(fixed, len(widths)))}
    at = before_at = sum(widths[:fixed])
    before = first - fixed
    at += len(f"‹ {before}") + PADDING if before > 0 else 0
    shown = first
    while shown < len(widths):
        left_out = len(widths) - shown - 1
        room = width - (len(f"{left_out} more ›") + PADDING if left_out else 0)
        rest = at + sum(widths[shown:])
        if shown > first and at + widths[shown] > room and rest > width:
            break
        starts[shown] = at
        at += widths[shown]
        shown += 1
    after = len(widths) - shown
    return View(starts, before, after, before_at, max(width - len(f"{after} more ›"), 0))


class Table(ScrollView, can_focus=True):
    """A row is highlighted or, with `cursor` "cell", one cell, never in the first column.

    Rows have keys: the same row stays highlighted when the table is filled again. The first `fixed` columns do not
    scroll. Only whole columns are shown, and signs in the head line say how many there are at either side. A column
    that is wider than the table scrolls before the next one is shown.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        bind("down", "move(1)"),
        bind("up", "move(-1)"),
        bind("first", "move(-1000000)"),
        bind("last", "move(1000000)"),
        bind("page-down", "page(1)"),
        bind("page-up", "page(-1)"),
        bind("left", "sideways(-1)", "Columns to the left"),
        bind("right", "sideways(1)", "Columns to the right"),
        bind("open", "choose", "Open"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--head", "table--cursor", "table--more"}
    DEFAULT_CSS = """
    Table {
        height: auto;
        color: $foreground;
        & > .table--head { background: $background; color: $text-muted; }
        &:focus > .table--head { background-tint: $foreground 5%; }
        & > .table--more { background: $background; color: $accent; }
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
        self,
        *,
        cursor: Literal["row", "cell"] = "row",
        show_head: bool = True,
        fixed: int = 1,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._fixed = self._first = fixed  # _first: the first of the other columns that is shown
        self._skipped = 0  # characters of this column that are scrolled out, if it is wider than the table
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
            self.virtual_size = Size(0, len(rows) + self._head_lines)
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
        if self._scrolls_inside(columns):
            return
        if self._by_cell:
            self._move_to(self.cursor_row, self.cursor_column + columns)
        else:
            self._show_from(self._first + columns)

    def _scrolls_inside(self, columns: int) -> bool:
        """Scroll by half of the room within a column that is wider than the room, unless its end is reached."""
        if self._by_cell and self.cursor_column != self._first:
            return False
        step = max(self._room_of_first // 2, 1)
        skipped = max(0, min(self._skipped + columns * step, self._beyond))
        if skipped == self._skipped:
            return False
        self._skipped = skipped
        self.refresh()
        return True

    @property
    def _room_of_first(self) -> int:
        """Characters that there are for the first column that scrolls, if it is shown alone."""
        return self.size.width - self._view().starts.get(self._first, 0)

    @property
    def _beyond(self) -> int:
        """Characters of that column for which there is no room."""
        return max(0, self._wide(self._first) - self._room_of_first) if self._first < len(self._widths) else 0

    def show_column(self, head: str) -> None:
        """Scroll to the column with this head if it is not visible."""
        if head in self.heads:
            self._show(self.heads.index(head))

    def on_mouse_scroll_right(self, event: MouseScrollRight) -> None:
        event.stop()
        self._show_from(self._first + 1)

    def on_mouse_scroll_left(self, event: MouseScrollLeft) -> None:
        event.stop()
        self._show_from(self._first - 1)

    def _show_from(self, first: int) -> None:
        """Show the columns from this one on, but no empty space at the right."""
        pinned = self._pinned
        if self._first == self._fixed > pinned:  # the fixed columns themselves do not fit
            first = pinned
        first = max(min(first, len(self._heads) - 1), pinned)
        while first > pinned and not self._view(first - 1).after:
            first -= 1
        if first != self._first:
            self._first, self._skipped = first, 0
            self.refresh()
        self._skipped = min(self._skipped, self._beyond)

    def _show(self, column: int) -> None:
        """Scroll to this column if it is not visible."""
        if self._pinned <= column < self._first:
            self._show_from(column)
        while column not in self._view().starts and self._first < column:
            self._first, self._skipped = self._first + 1, 0
            self.refresh()

    def on_resize(self) -> None:
        self._show_from(self._first)

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
        top = self.scroll_offset.y
        room = max(self.size.height - self._head_lines, 1)
        above = max(self.cursor_row - room + 1, min(top, self.cursor_row))
        if self.size.width:  # else it is not shown yet
            self._show_from(self._first)
            if self._by_cell and self._widths:
                self._show(self.cursor_column)
        if above != top:
            self.scroll_to(0, above, animate=False)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._head_lines + max(len(self._rows), self._room)

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _draw_row(self, row: int) -> None:
        self.refresh(Region(0, row + self._head_lines - self.scroll_offset.y, self.size.width, 1))

    def _view(self, first: int | None = None) -> View:
        """The columns that are shown, from `first` on instead of the current one."""
        widths = [width + 2 * PADDING for width in self._widths]
        return view(widths, self._pinned, self._first if first is None else first, self.size.width)

    @property
    def _pinned(self) -> int:
        """How many of the first columns do not scroll: those that leave room for others."""
        pinned = min(self._fixed, len(self._widths))
        while pinned and self.size.width and sum(map(self._wide, range(pinned))) > self.size.width:
            pinned -= 1
        return pinned

    def _column_at(self, x: int) -> int | None:
        """The column that is shown at this place."""
        starts = self._view().starts
        return next((column for column, start in starts.items() if 0 <= x - start < self._wide(column)), None)

    def _wide(self, column: int) -> int:
        return self._widths[column] + 2 * PADDING

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
        shown = self._view()
        parts: list[tuple[int, list[Segment]]] = []  # places and what is there
        for column, start in shown.starts.items():
            cell = self._cell(column, cells[column], ground)
            if column == self._first and self._skipped:
                cell = list(Strip(cell).crop(self._skipped))
            is_cursor = cursor is not None and self._by_cell and column == self.cursor_column
            parts.append((start, _over(cell, cursor) if cursor is not None and is_cursor else cell))
        if y < self._head_lines:
            style = ground + self.get_component_rich_style("table--more")
            cut = [(width - len(CUT), CUT)] if self._beyond > self._skipped and not shown.after else []
            parts += [(at, [Segment(words, style)]) for at, words in (*shown.signs, *cut)]
        strip = _joined(parts, ground).adjust_cell_length(width, ground)
        return Strip(_over(list(strip), cursor), width) if cursor is not None and not self._by_cell else strip

    def _cell(self, column: int, cell: Text, ground: Style) -> list[Segment]:
        space = self._widths[column] - cell.cell_len
        before, after = (0, space) if self._heads[column][1] else (space, 0)
        shown = segments(cell, self.app.console, ground)
        return [Segment(" " * (PADDING + before), ground), *shown, Segment(" " * (PADDING + after), ground)]


def _joined(parts: Sequence[tuple[int, list[Segment]]], ground: Style) -> Strip:
    """The parts at their places. A part that is too long ends where the next one starts."""
    line: list[Segment] = []
    at = 0
    for start, part in sorted(parts, key=itemgetter(0)):
        if start > at:
            line.append(Segment(" " * (start - at), ground))
        elif start < at:
            line = list(Strip(line).crop(0, start))
        line += part
        at = start + sum(segment.cell_length for segment in part)
    return Strip(line)


def _over(segments: Sequence[Segment], cursor: Style) -> list[Segment]:
    """The segments in the colours of the cursor, which override those of a cell."""
    colours = Style.from_color(cursor.color, cursor.bgcolor)
    return list(Segment.apply_style(segments, None, colours))


def _same(some: Sequence[Text], others: Sequence[Text]) -> bool:
    """Whether two rows look the same. (Rich compares texts without their style.)"""
    return all(one == other and one.style == other.style for one, other in zip(some, others, strict=True))
