"""Dots finer than characters: each cell of a terminal holds 2 x 4 of them as one braille character (U+2800).

The bits of a cell's dots are Unicode's: 1, 2, 4, 64 down the left, 8, 16, 32, 128 down the right.
"""

from __future__ import annotations

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
ACROSS, DOWN = 2, 4


class Canvas:
    """A grid of `width` x `height` cells. Dots outside of it are left out."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells: dict[tuple[int, int], int] = {}

    def dot(self, x: int, y: int) -> None:
        """Set a dot; (0, 0) is at the top left."""
        column, row = x // ACROSS, y // DOWN
        if 0 <= column < self.width and 0 <= row < self.height:
            self._cells[column, row] = self._cells.get((column, row), 0) | _BITS[y % DOWN][x % ACROSS]

    def line(self, x0: int, y0: int, x1: int, y1: int, every: int = 1) -> None:
        """Dots from one point to another; with `every`, only each so many."""
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(0, steps + 1, every):
            self.dot(round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps))

    def cells(self) -> dict[tuple[int, int], str]:
        """The characters that are not blank, by (column, row)."""
        return {place: chr(0x2800 + bits) for place, bits in self._cells.items()}
