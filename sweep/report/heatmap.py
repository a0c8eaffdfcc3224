"""Heat maps as inline SVG: a value in every cell, coloured on a logarithmic scale that all maps of a page share.

From the page's paper over a warm colour to a strong one, so that the order is that of lightness and no two hues have to
be told apart (as in ColorBrewer's sequential schemes). They come from the page's CSS and serve light, dark and print.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

LEAST = 1e-4  # what is below has the first colour: nothing that a text of ordinary length can tell from zero
DECADES = 2  # that a scale has at least, so that values next to each other do not get opposite colours

_CELL, _ROW, _LINE = 62, 32, 15
_KEY = 4  # width of a step of the key
_GLYPH = 6.3  # mean advance of a label
_FAINTEST = 0.04  # next to the paper, and yet a cell
_DARK = 0.63  # strength from which on black text becomes white, or white black: a contrast above 4.3, light and dark


@dataclass(frozen=True)
class Cell:
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


def heat_map(
    cells: Sequence[Sequence[Cell | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    across: str,
    shades: Shades,
    name: str,
) -> str:
    """An <svg> element: `cells[i][j]` beside the label `rows[i]` and under `columns[j]`; None has no value.

    `across` names the columns, `name` the map for those who cannot see it.
    """
    heads = [_lines(label) for label in columns]
    left = round(10 + _GLYPH * max(map(len, rows)))
    top = 20 + _LINE * max(map(len, heads))
    width, height = left + _CELL * len(columns) + 2, top + _ROW * len(rows) + 2
    parts = [_text("name", left + _CELL * len(columns) / 2, 11, across)]
    for j, lines in enumerate(heads):
        under = top - 6 - _LINE * (len(lines) - 1)
        parts += [_text("tick", left + _CELL * (j + 0.5), under + _LINE * k, line) for k, line in enumerate(lines)]
    parts += [_text("tick", left - 8, top + _ROW * i + 21, label, "end") for i, label in enumerate(rows)]
    frames = []
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            x, y = left + _CELL * j, top + _ROW * i
            if cell is None:
                parts.append(_text("tick", x + _CELL / 2, y + 21, "–"))
                continue
            parts.append(_cell(cell, x, y, shades.strength(cell.value)))
            if cell.best:
                frames.append(f'<rect class="frame" {_box(x, y)}/>')
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{_esc(name)}">{"".join(parts + frames)}</svg>'
    )


def key(shades: Shades, unit: str) -> str:
    """An <svg> element that says which colour is which value: the scale with its decades, `unit` beside it."""
    decades = range(shades.first, shades.last + 1)
    wide, left = 72, 2
    long = wide * (len(decades) - 1)
    width = left + long + 30 + round(_GLYPH * len(unit))
    parts = []
    for x in range(0, long, _KEY):
        strength = shades.strength(10.0 ** (shades.first + (x + _KEY / 2) / wide))
        parts.append(_coloured(strength, f'x="{left + x}" y="1" width="{_KEY}" height="16"'))
    for at, power in enumerate(decades):
        x = left + wide * at
        parts.append(f'<path class="axis" d="M{x} 17v4"/>')
        label = f"{'≤ ' if at == 0 else ''}{10.0**power:g}"
        parts.append(_text("tick", x, 33, label, "start" if at == 0 else "middle"))
    parts.append(_text("name", left + long + 14, 13, unit, "start"))
    return (
        f'<svg class="key" viewBox="0 0 {width} 40" width="{width}" role="img" '
        f'aria-label="{_esc(unit)}">{"".join(parts)}</svg>'
    )


def _cell(cell: Cell, x: float, y: float, strength: float) -> str:
    on = " on" if strength >= _DARK else ""
    ring = ""
    if cell.as_good and not cell.best:
        ring = f'<circle class="alike{on}" cx="{x + _CELL - 6.5:g}" cy="{y + 6.5:g}" r="2.5"/>'
    return (
        f"<g><title>{_esc(cell.title)}</title>{_coloured(strength, _box(x, y))}"
        f"{_text(f'value{on}', x + _CELL / 2, y + 21, cell.text)}{ring}</g>"
    )


def _coloured(strength: float, box: str) -> str:
    """The paper and the warm colour mixed, or above one half this and the hot one."""
    if strength < 0.5:
        return f'<rect class="warm" fill-opacity="{2 * strength:.2f}" {box}/>'
    return f'<rect class="warm" {box}/><rect class="hot" fill-opacity="{2 * strength - 1:.2f}" {box}/>'


def _box(x: float, y: float) -> str:
    """Of a cell, with a gap to its neighbours."""
    return f'x="{x + 1:g}" y="{y + 1:g}" width="{_CELL - 2}" height="{_ROW - 2}"'


def _text(style: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{_esc(text)}</text>'


def _lines(label: str) -> list[str]:
    """A label in lines of a cell's width, broken between words."""
    lines = [""]
    for word in label.split():
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) * _GLYPH <= _CELL or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def _esc(text: str) -> str:
    return html.escape(text)
