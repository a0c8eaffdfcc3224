"""Heat maps as inline SVG: a value in every cell, its colour one of a few steps of a logarithmic scale. No scripts.

One hue from the page's paper to full strength, so that the order is that of lightness and no two colours have to be
told apart (ColorBrewer's sequential schemes do the same). Colours come from the page's CSS and serve light, dark, print.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEPS = tuple(part * 10.0**power for power in range(-5, 2) for part in (1, 3))
"""Lower ends of the colours' steps, the first of which takes all that is below too: half decades."""

_CELL, _ROW, _LINE = 58, 30, 15
_GLYPH = 6.3  # mean advance of a label
_DARK = 0.5  # strength from which on the text in a cell takes the paper's colour


@dataclass(frozen=True)
class Cell:
    """`text` stands in the cell, `title` is read on hover. `best`: framed; `as_good`: framed by dashes."""

    value: float
    text: str
    title: str
    best: bool = False
    as_good: bool = False


@dataclass(frozen=True)
class Shades:
    """The steps in use on a page, so that its maps have their colours in common."""

    first: int
    last: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Shades:
        steps = [step_of(value) for value in values]
        return cls(min(steps), max(steps)) if steps else cls(0, 0)

    def strength(self, step: int) -> float:
        """0 to 1, even from the first step in use to the last."""
        return 0.04 + 0.96 * (step - self.first) / max(1, self.last - self.first)


def step_of(value: float) -> int:
    """The number of a value's step; what is below the first belongs to it."""
    return max(0, sum(value >= low for low in STEPS) - 1)


def heat_map(
    cells: Sequence[Sequence[Cell | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    across: str,
    shades: Shades,
    name: str,
) -> str:
    """An <svg> element: `cells[i][j]` under the labels `rows[i]` and `columns[j]`; None is a cell without a value.
    `across` names the columns, `name` the map for those who cannot see it."""
    heads = [_lines(label) for label in columns]
    left = 10 + _GLYPH * max(map(len, rows))
    top = 20 + _LINE * max(map(len, heads))
    width, height = left + _CELL * len(columns) + 2, top + _ROW * len(rows) + 2
    parts = [
        f'<text class="name" x="{left + _CELL * len(columns) / 2:.0f}" y="11" text-anchor="middle">{_esc(across)}</text>'
    ]
    for j, lines in enumerate(heads):
        x, y = left + _CELL * (j + 0.5), top - 6 - _LINE * (len(lines) - 1)
        spans = "".join(
            f'<tspan x="{x:.0f}" y="{y + _LINE * k:.0f}">{_esc(line)}</tspan>' for k, line in enumerate(lines)
        )
        parts.append(f'<text class="tick" text-anchor="middle">{spans}</text>')
    for i, label in enumerate(rows):
        parts.append(
            f'<text class="tick" x="{left - 8:.0f}" y="{top + _ROW * i + 19}" text-anchor="end">{_esc(label)}</text>'
        )
    frames = []
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            x, y = left + _CELL * j, top + _ROW * i
            if cell is None:
                parts.append(f'<text class="tick" x="{x + _CELL / 2:.0f}" y="{y + 19}" text-anchor="middle">–</text>')
                continue
            strength = shades.strength(step_of(cell.value))
            kind = "on" if strength >= _DARK else ""
            parts.append(
                f'<g class="cell"><title>{_esc(cell.title)}</title>'
                f'<rect class="heat" fill-opacity="{strength:.2f}" x="{x + 1:.0f}" y="{y + 1}" '
                f'width="{_CELL - 2}" height="{_ROW - 2}"/>'
                f'<text class="{kind}" x="{x + _CELL / 2:.0f}" y="{y + 19}" text-anchor="middle">{_esc(cell.text)}</text></g>'
            )
            if cell.as_good:
                frame = "frame" if cell.best else "frame like"
                frames.append(
                    f'<rect class="{frame}" x="{x + 1:.0f}" y="{y + 1}" width="{_CELL - 2}" height="{_ROW - 2}"/>'
                )
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="{_esc(name)}">{"".join(parts + frames)}</svg>'
    )


def key(shades: Shades, unit: str) -> str:
    """An <svg> element that says which colour is which: the steps in use, with their ends."""
    steps = range(shades.first, shades.last + 1)
    wide, width = 52, 52 * len(steps) + 60
    parts = []
    for at, step in enumerate(steps):
        parts.append(
            f'<rect class="heat" fill-opacity="{shades.strength(step):.2f}" x="{30 + wide * at}" y="2" '
            f'width="{wide}" height="14"/>'
        )
    for at, (step, _) in enumerate(pairwise([*steps, shades.last + 1])):
        if at:
            parts.append(f'<text class="tick" x="{30 + wide * at}" y="30" text-anchor="middle">{STEPS[step]:g}</text>')
    parts.append(
        f'<text class="name" x="{30 + wide * len(steps) / 2:.0f}" y="46" text-anchor="middle">{_esc(unit)}</text>'
    )
    return (
        f'<svg class="key" viewBox="0 0 {width} 50" style="max-width:{width}px" role="img" '
        f'aria-label="{_esc(unit)}">{"".join(parts)}</svg>'
    )


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
