"""Text to read, wrapped to the width and scrolled where it is longer than its place.

A Static in a VerticalScroll lays the whole screen out twice for every other text, this only where its length changes.
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
    return [Segment(text.plain, ground + console.get_style(text.style))]  # which rich would leave without its style


class Words(ScrollView):
    """Shows `text`."""

    def __init__(self, *, id: str | None = None, can_focus: bool = False) -> None:
        super().__init__(id=id)
        self.can_focus = can_focus
        self.text = Text()
        self._strips: list[Strip] = []

    def show(self, text: Text, at_end: bool = False) -> None:
        """Something else, from its first line on or down to its last."""
        self.text = text
        self._wrap()
        self.scroll_to(0, self.max_scroll_y if at_end else 0, animate=False)

    def on_mount(self) -> None:
        self._wrap()

    def on_resize(self) -> None:
        self._wrap()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._wrap()

    def _wrap(self) -> None:
        width = self.scrollable_content_region.width
        if not width:
            return
        console, ground = self.app.console, self.rich_style
        self._strips = [
            Strip(segments(line, console, ground)).adjust_cell_length(width, ground)
            for line in self.text.wrap(console, width)
        ]
        self.virtual_size = Size(width, len(self._strips))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        line = y + self.scroll_offset.y
        if line < len(self._strips):
            return self._strips[line]
        return Strip.blank(self.size.width, self.rich_style)
