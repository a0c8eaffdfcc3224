"""Draws dots finer than characters: a character cell has 2 x 4 dots, as one braille character (from U+2800 on).

Unicode assigns the bits 1, 2, 4, 64 to the left column from the top, and 8, 16, 32, 128 to the right one.
"""

from __future__ import annotations

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
ACROSS, DOWN = 2, 4


class Canvas:
    """A grid of `width` x `height` character cells. Dots outside of it are ignored."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells: dict[tuple[int, int], int] = {}

    def dot(self, x: int, y: int) -> None:
        """Set a dot; (0, 0) is at the top left."""
        column, row = x // ACROSS, y // DOWN
        if 0 <= column < self.width and 0 <= row < self.height:
            self._cells[column, row] = self._cells.get((column, row), 0) | _BITS[y % DOWN][x % ACROSS]

    def line(self, x0: int, y0: int, x1: int, y1: int, every: int = 1) -> None:
        """Set the dots from one point to another; with `every` n, only each n-th dot."""
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(0, steps + 1, every):
            self.dot(round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps))

    def cells(self) -> dict[tuple[int, int], str]:
        """The characters of cells with dots, by (column, row)."""
        return {place: chr(0x2800 + bits) for place, bits in self._cells.items()}
