"""Text that is wrapped to the width of the pane and can be scrolled.

A Static in a VerticalScroll computes the layout of the whole screen twice for each new text; this pane computes it only
if the number of lines changes.
"""

from __future__ import annotations

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip


def segments(text: Text, console: Console, ground: Style) -> list[Segment]:
    """A line in its styles, over `ground`."""
    if text.spans:
        return list(Segment.apply_style(text.render(console), ground))
    return [Segment(text.plain, ground + console.get_style(text.style))]  # rich would leave out the style


class TextPane(ScrollView):
    """Shows `text`."""

    def __init__(self, *, id: str | None = None, can_focus: bool = False) -> None:
        super().__init__(id=id)
        self.can_focus = can_focus
        self.text = Text()
        self._at_end = False
        self._lines: list[Text] = []
        self._width = 0  # the width that the lines are wrapped to

    def show(self, text: Text, at_end: bool = False) -> None:
        """Show another text, scrolled to its first or (`at_end`) its last line."""
        self.text, self._at_end = text, at_end
        self._wrap()

    def on_resize(self) -> None:
        if self.scrollable_content_region.width != self._width:
            self._wrap()

    def _wrap(self) -> None:
        """Wrap the text. While the pane is hidden it has no width, and so no lines."""
        self._width = self.scrollable_content_region.width
        self._lines = list(self.text.wrap(self.app.console, self._width)) if self._width else []
        self.virtual_size = Size(self._width, len(self._lines))
        self.refresh()
        self.scroll_to(0, self.max_scroll_y if self._at_end else 0, animate=False)

    def render_line(self, y: int) -> Strip:
        line, ground, width = y + self.scroll_offset.y, self.rich_style, self.size.width
        if line >= len(self._lines):
            return Strip.blank(width, ground)
        return Strip(segments(self._lines[line], self.app.console, ground)).adjust_cell_length(width, ground)
