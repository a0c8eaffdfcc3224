"""Heat maps: a value in every cell, coloured on a logarithmic scale that all maps of a page share.

From the page's paper over a warm colour to a strong one, so that the order is that of lightness and no two hues have to
be told apart (as in ColorBrewer's sequential schemes). `templates/heatmap.svg` draws them in the page's colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from textwrap import wrap

LEAST = 1e-4  # what is below has the first colour: nothing that a text of ordinary length can tell from zero
DECADES = 2  # that a scale has at least, so that values next to each other do not get opposite colours

_WIDTH, _HEIGHT, _LINE = 62, 32, 15  # of a cell as the template draws it, and of a line of text
_DECADE, _STEP = 72, 4  # widths of the key
_GLYPH = 6.3  # mean advance of a label
_FAINTEST = 0.04  # next to the paper, and yet a cell
_DARK = 0.63  # strength from which on black text becomes white, or white black: a contrast above 4.3, light and dark


@dataclass(frozen=True)
class HeatCell:
    """`text` stands in the cell, `title` is read on hover. `best` is framed; `as_good` has a ring in its corner."""

    value: float
    text: str
    title: str
    best: bool = False
    as_good: bool = False


@dataclass(frozen=True)
class Shades:
    """Powers of ten: the first and the last of the scale."""

    first: int
    last: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Shades:
        """A scale that holds all values, whole decades from LEAST on."""
        shown = [log10(max(value, LEAST)) for value in values] or [log10(LEAST)]
        first = floor(min(shown))
        return cls(first, max(ceil(max(shown)), first + DECADES))

    def strength(self, value: float) -> float:
        """Of the colour, up to 1, even in the logarithm; what is off the scale takes its end."""
        share = (log10(max(value, LEAST)) - self.first) / (self.last - self.first)
        return _FAINTEST + (1 - _FAINTEST) * min(1.0, max(0.0, share))


@dataclass(frozen=True)
class MapText:
    text: str
    x: float
    y: int
    kind: str = "tick"
    anchor: str = "middle"


@dataclass(frozen=True)
class Square:
    """A cell, its upper left corner, and how strong its colour is."""

    cell: HeatCell
    x: int
    y: int
    strength: float

    @property
    def dark(self) -> bool:
        return self.strength >= _DARK


@dataclass(frozen=True)
class HeatMap:
    name: str
    width: int
    height: int
    texts: list[MapText]
    squares: list[Square]


@dataclass(frozen=True)
class ColourKey:
    """Which colour is which value: steps have a place and a strength, ticks a place and a text."""

    unit: str
    width: int
    steps: list[tuple[int, float]]
    ticks: list[tuple[int, str]]


def heat_map(
    cells: Sequence[Sequence[HeatCell | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    across: str,
    shades: Shades,
    name: str,
) -> HeatMap:
    """`cells[i][j]` stands beside the label `rows[i]` and under `columns[j]`; None has no value.

    `across` names the columns, `name` the map for those who cannot see it.
    """
    heads = [wrap(label, int(_WIDTH / _GLYPH), break_long_words=False, break_on_hyphens=False) for label in columns]
    left = round(10 + _GLYPH * max(map(len, rows)))
    top = 20 + _LINE * max(map(len, heads))
    xs = [left + _WIDTH * j for j in range(len(columns))]
    ys = [top + _HEIGHT * i for i in range(len(rows))]
    texts = [MapText(across, left + _WIDTH * len(columns) / 2, 11, "name")]
    for x, lines in zip(xs, heads, strict=True):
        first = top - 6 - _LINE * (len(lines) - 1)
        texts += [MapText(line, x + _WIDTH // 2, first + _LINE * k) for k, line in enumerate(lines)]
    texts += [MapText(label, left - 8, y + 21, anchor="end") for label, y in zip(rows, ys, strict=True)]
    squares = []
    for y, row in zip(ys, cells, strict=True):
        for x, cell in zip(xs, row, strict=True):
            if cell is None:
                texts.append(MapText("–", x + _WIDTH // 2, y + 21))
            else:
                squares.append(Square(cell, x, y, shades.strength(cell.value)))
    return HeatMap(name, left + _WIDTH * len(columns) + 2, top + _HEIGHT * len(rows) + 2, texts, squares)


def key(shades: Shades, unit: str) -> ColourKey:
    """The scale of all maps with its powers of ten."""
    left, powers = 2, range(shades.first, shades.last + 1)
    long = _DECADE * (len(powers) - 1)
    middles = ((x, shades.first + (x + _STEP / 2) / _DECADE) for x in range(0, long, _STEP))
    return ColourKey(
        unit,
        left + long + 30 + round(_GLYPH * len(unit)),
        [(left + x, shades.strength(10.0**power)) for x, power in middles],
        [(left + _DECADE * i, f"{'≤ ' if i == 0 else ''}{10.0**power:g}") for i, power in enumerate(powers)],
    )
