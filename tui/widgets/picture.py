"""A picture as half blocks: each character shows two pixels, one above the other, in their colours."""

from __future__ import annotations

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from images.file import Pixels
from images.thumbnail import resized

UPPER = "▀"


class Picture(Widget):
    """Shows RGB pixels as large as the widget allows, in their proportions; nothing for None."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._pixels: Pixels | None = None
        self._drawn: tuple[Size, list[Strip]] = Size(), []

    def show(self, pixels: Pixels | None) -> None:
        self._pixels = pixels
        self._drawn = Size(), []
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if self._drawn[0] != self.size:
            self._drawn = self.size, [] if self._pixels is None else half_blocks(self._pixels, self.size)
        lines, ground = self._drawn[1], self.rich_style
        line = lines[y] if y < len(lines) else Strip.blank(0, ground)
        return line.adjust_cell_length(self.size.width, ground)


def half_blocks(pixels: Pixels, room: Size) -> list[Strip]:
    """Lines of characters that show RGB pixels [height, width, 3], as large as `room` allows."""
    height, width = pixels.shape[:2]
    scale = min(room.width / width, 2 * room.height / height)
    if scale <= 0:
        return []
    wide, high = max(1, round(width * scale)), max(2, 2 * round(height * scale / 2))
    small = resized(pixels, wide, high).tolist()
    return [
        Strip(
            Segment(UPPER, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
            for above, below in zip(small[row], small[row + 1], strict=True)
        )
        for row in range(0, high, 2)
    ]
