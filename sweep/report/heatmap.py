"""Heat maps: a value in every cell, coloured on a logarithmic scale that all maps of a page share.

Colours go from the background over a warm colour to a strong one, so that lightness gives the order and no hues need to
be distinguished (as in ColorBrewer's sequential schemes). `templates/heatmap.svg` draws the maps in the page's colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from textwrap import wrap

LEAST = 1e-4  # values below have the first colour: a text of ordinary length cannot distinguish them from zero
DECADES = 2  # the shortest scale, so that similar values do not get opposite colours

_WIDTH, _HEIGHT, _LINE = 62, 32, 15  # of a cell as the template draws it, and the height of a line of text
_DECADE, _STEP = 72, 4  # widths of the key
_GLYPH = 6.3  # mean width of a character in a label
_FAINTEST = 0.04  # the weakest colour: nearly the background, but still visible as a cell
_DARK = 0.63  # from this strength on, text is white instead of black (dark theme: the reverse): a contrast above 4.3


@dataclass(frozen=True)
class HeatCell:
    """A cell with its `text`, and a `title` on hover. `best` gives it a frame, `as_good` a ring in the corner."""

    value: float
    text: str
    title: str
    best: bool = False
    as_good: bool = False


@dataclass(frozen=True)
class Shades:
    """The colour scale: the powers of ten at its ends."""

    first: int
    last: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Shades:
        """A scale of whole decades that contains all values from LEAST on."""
        shown = [log10(max(value, LEAST)) for value in values] or [log10(LEAST)]
        first = floor(min(shown))
        return cls(first, max(ceil(max(shown)), first + DECADES))

    def strength(self, value: float) -> float:
        """The strength of a value's colour, up to 1, linear in its logarithm. Values off the scale get its ends."""
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
    """A cell, the position of its upper left corner, and the strength of its colour."""

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
    """The key to the colours: steps with a position and a strength, ticks with a position and a text."""

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
    """`cells[i][j]` belongs to the labels `rows[i]` and `columns[j]`; None has no value.

    `across` is the title of the columns, `name` describes the map for screen readers.
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
    """The key to the colours of all maps, with powers of ten."""
    left, powers = 2, range(shades.first, shades.last + 1)
    long = _DECADE * (len(powers) - 1)
    middles = ((x, shades.first + (x + _STEP / 2) / _DECADE) for x in range(0, long, _STEP))
    return ColourKey(
        unit,
        left + long + 30 + round(_GLYPH * len(unit)),
        [(left + x, shades.strength(10.0**power)) for x, power in middles],
        [(left + _DECADE * i, f"{'≤ ' if i == 0 else ''}{10.0**power:g}") for i, power in enumerate(powers)],
    )
