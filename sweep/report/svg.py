"""Scatter plots: places of points, error bars, Pareto lines, ticks and labels. `templates/scatter.svg` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sweep.analysis.plots import Axis, Level, Point
from sweep.report.axes import Scale, spread, ticks

WIDTH, HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, WIDTH - 12, 14, HEIGHT - 44
_GLYPH, _LINE = 7.0, 14.0  # mean width of a character and height of a label, at the largest size of the stylesheet
_GAP = 8.5  # between a point's centre and its label
# Places of a label next to its point: its anchor, and its distance to the right and below, in gaps.
_SIDES = (
    ("start", 1, 0), ("start", 1, -1), ("start", 1, 1), ("middle", 0, -1.8), ("middle", 0, 1.8),
    ("end", -1, 0), ("end", -1, -1), ("end", -1, 1),
)  # fmt: skip
# Places farther away, with a line to the point.
_FARTHER = tuple(
    (anchor, side * far, down * far)
    for far in (2.5, 4, 5.5)
    for anchor, side, down in (("start", 1, -1), ("end", -1, 1), ("start", 1, 1), ("end", -1, -1))
)

_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Label:
    """The place of a point's name. `anchor` is SVG's text-anchor: start, middle or end of the baseline.

    `leader`: a line joins the label and its point.
    """

    x: float
    y: float
    anchor: str
    leader: bool


@dataclass(frozen=True)
class Mark:
    """A point, the ends of its error bar, and its label (None if there is no room for it)."""

    point: Point
    x: float
    y: float
    bar: tuple[float, float] | None
    label: Label | None


@dataclass(frozen=True)
class ScatterPlot:
    """A drawing of `width` x `height` units. Ticks and levels have a place and a text."""

    name: str
    x_label: str
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    levels: list[tuple[float, str]]
    lines: list[list[tuple[float, float]]]
    marks: list[Mark]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = _RIGHT
    bottom: int = _BOTTOM


def scatter(
    points: Sequence[Point], x: Axis, y: Axis, name: str, levels: Sequence[Level] = (), *, joins_groups: bool = False
) -> ScatterPlot:
    """The drawing of the points. On a log axis, all of them must be positive.

    A line joins the Pareto set of each group, or with `joins_groups` all points of each group.
    """
    points = sorted(points, key=lambda point: (point.x, point.y))
    levels = [level for level in levels if level.y > 0 or not y.log]
    ends = [v for p in points for v in (p.y, p.y - (p.error or 0), p.y + (p.error or 0)) if v > 0 or not y.log]
    sx = Scale(*spread([p.x for p in points], x.log, 0.06), _LEFT, _RIGHT, x.log)
    sy = Scale(*spread([*ends, *(level.y for level in levels)], y.log, 0.08), _BOTTOM, _TOP, y.log)
    places = [(round(sx(p.x), 1), round(sy(p.y), 1)) for p in points]
    # on a log axis a bar that reaches zero ends at the axis
    bars = [
        (round(sy(p.y + p.error), 1), round(sy(max(p.y - p.error, sy.low)), 1)) if p.error else None for p in points
    ]
    lines = _levels(levels, sy)
    strips: list[_Box] = [(_LEFT, at - 1, _RIGHT, at + 1) for at, _ in lines]
    strips += [(_LEFT, at - _LINE, _LEFT + len(text) * _GLYPH, at) for at, text in lines]
    joined = [
        [
            at
            for point, at in zip(points, places, strict=True)
            if point.group == group and (joins_groups or point.pareto)
        ]
        for group in sorted({point.group for point in points})
    ]
    if joins_groups:  # the lines may run anywhere, so labels have to avoid them
        strips += [box for line in joined for box in _boxes_along(line)]
    labels = _labels(points, places, strips)
    return ScatterPlot(
        name,
        x.label,
        [(round(sx(value), 1), x.write(value)) for value in ticks(sx.low, sx.high, log=x.log, most=8)],
        [(round(sy(value), 1), y.write(value)) for value in ticks(sy.low, sy.high, log=y.log, most=5)],
        lines,
        [line for line in joined if len(line) > 1],
        [Mark(p, *at, bar, labels.get(i)) for i, (p, at, bar) in enumerate(zip(points, places, bars, strict=True))],
    )


def _boxes_along(line: Sequence[tuple[float, float]]) -> list[_Box]:
    """Small boxes that cover a line."""
    boxes = []
    for (x, y), (to_x, to_y) in pairwise(line):
        steps = max(1, round(max(abs(to_x - x), abs(to_y - y)) / 4))
        for i in range(1, steps):
            at_x, at_y = x + (to_x - x) * i / steps, y + (to_y - y) * i / steps
            boxes.append((at_x - 1, at_y - 2, at_x + 1, at_y + 2))
    return boxes


def _levels(levels: Sequence[Level], sy: Scale) -> list[tuple[float, str]]:
    """Places and labels of the lines. If labels would overlap, only the first is shown."""
    found: list[tuple[float, str]] = []
    for level in levels:
        at = round(sy(level.y), 1)
        free = all(abs(at - other) >= _LINE for other, text in found if text)
        found.append((at, level.label if free else ""))
    return found


def _labels(points: Sequence[Point], places: Sequence[tuple[float, float]], strips: Sequence[_Box]) -> dict[int, Label]:
    """By point, the first place of _SIDES (in the Pareto set also of _FARTHER) that covers no point, label or strip.

    Points without a name have none. A label without such a place is left out; the title on hover has the name. The
    recommended variant is placed first, then the Pareto set.
    """
    taken = [*strips, *((x - 5.5, y - 5.5, x + 5.5, y + 5.5) for x, y in places)]
    found = {}
    named = [i for i, point in enumerate(points) if point.label]
    for i in sorted(named, key=lambda i: (not points[i].chosen, not points[i].pareto, i)):
        (x, y), wide = places[i], len(points[i].label) * _GLYPH
        gap = _GAP + 4 if points[i].chosen else _GAP  # room for the ring
        for anchor, across, down in (*_SIDES, *_FARTHER) if points[i].pareto or points[i].chosen else _SIDES:
            at, middle = x + across * gap, y + down * gap
            left = at - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            box = left, middle - _LINE / 2, left + wide, middle + _LINE / 2
            if _inside(box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found[i] = Label(round(at, 1), round(middle + 3.5, 1), anchor, abs(across) > 1)
                break
    return found


def _inside(box: _Box) -> bool:
    left, top, right, bottom = box
    return left >= _LEFT and right <= WIDTH - 2 and top >= 2 and bottom <= _BOTTOM - 1


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] - 3 < b[2] and b[0] < a[2] + 3 and a[1] < b[3] and b[1] < a[3]
