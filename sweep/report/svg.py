"""Scatter plots as inline SVG: points with error bars, a Pareto line, labels that do not overlap. No scripts.

Colours and fonts come from the page's CSS through classes, so one drawing serves light, dark and print.
Label placement is greedy over eight positions a point (Imhof's rules as used in map making: beside before above).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import pairwise
from math import hypot

from sweep.analysis.plots import Axis, Level, Point
from sweep.report.axes import Scale, spread, ticks

WIDTH, HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 44
_GLYPH, _LINE = 7.0, 14.0  # mean advance and height of a label at the largest size the stylesheet gives it
_RADIUS = 4.5


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def scatter(points: Sequence[Point], x: Axis, y: Axis, name: str, levels: Sequence[Level] = ()) -> str:
    """An <svg> element of WIDTH x HEIGHT units. Points off a log axis (not positive) must have been left out."""
    points = sorted(points, key=lambda point: (point.x, point.y))
    levels = [level for level in levels if level.y > 0 or not y.log]
    ends = [v for p in points for v in (p.y, p.y - (p.error or 0), p.y + (p.error or 0)) if v > 0 or not y.log]
    across = spread([p.x for p in points], x.log, 0.06)
    up = spread([*ends, *(level.y for level in levels)], y.log, 0.08)
    sx = Scale(*across, _LEFT, WIDTH - _RIGHT, x.log)
    sy = Scale(*up, HEIGHT - _BOTTOM, _TOP, y.log)
    body = [*_grid(x, y, sx, sy), *_levels(levels, sy), *_front(points, sx, sy)]
    body += [_bar(point, sx, sy) for point in points]
    labels = _place(points, sx, sy, levels)
    body += [_marker(point, sx, sy) for point in points]
    body += labels
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(name)}">'
        f"{''.join(part for part in body if part)}</svg>"
    )


def _grid(x: Axis, y: Axis, sx: Scale, sy: Scale) -> list[str]:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for value in ticks(sy.low, sy.high, log=y.log, most=5):
        at = sy(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_esc(y.write(value))}</text>'
        )
    for value in ticks(sx.low, sx.high, log=x.log, most=8):
        at = sx(value)
        parts.append(f'<path class="axis" d="M{at:.1f} {bottom}v4"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{_esc(x.write(value))}</text>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{WIDTH - _RIGHT}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{_esc(x.label)}</text>')
    return parts


def _levels(levels: Sequence[Level], sy: Scale) -> list[str]:
    parts: list[str] = []
    named: list[float] = []
    for level in levels:
        at = sy(level.y)
        parts.append(f'<path class="level" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>')
        if level.label and all(abs(at - other) >= _LINE for other in named):
            named.append(at)
            parts.append(f'<text class="tick" x="{_LEFT + 4}" y="{at - 5:.1f}">{_esc(level.label)}</text>')
    return parts


def _front(points: Sequence[Point], sx: Scale, sy: Scale) -> list[str]:
    """The Pareto set of each group, joined."""
    lines = []
    for group in sorted({point.group for point in points}):
        front = [point for point in points if point.pareto and point.group == group]
        if len(front) > 1:
            path = "L".join(f"{sx(p.x):.1f} {sy(p.y):.1f}" for p in front)
            lines.append(f'<path class="front" d="M{path}"/>')
    return lines


def _bar(point: Point, sx: Scale, sy: Scale) -> str:
    if not point.error:
        return ""
    low = max(point.y - point.error, sy.low)  # on a log axis a bar may reach zero: it ends at the axis
    at, top, bottom = sx(point.x), sy(point.y + point.error), sy(low)
    return (
        f'<path class="bar" d="M{at:.1f} {top:.1f}V{bottom:.1f}M{at - 3:.1f} {top:.1f}h6M{at - 3:.1f} {bottom:.1f}h6"/>'
    )


def _marker(point: Point, sx: Scale, sy: Scale) -> str:
    """Filled on the Pareto set, hollow in its colour where that is unsure, grey off it; a ring around the recommended
    one; squares for a second reference."""
    at, up = sx(point.x), sy(point.y)
    kind = ("point on unsure" if point.unsure else "point on") if point.pareto else "point"
    if point.group % 2:
        side = 2 * _RADIUS - 1
        shape = f'<rect class="{kind}" x="{at - side / 2:.1f}" y="{up - side / 2:.1f}" width="{side}" height="{side}"/>'
    else:
        shape = f'<circle class="{kind}" cx="{at:.1f}" cy="{up:.1f}" r="{_RADIUS}"/>'
    ring = f'<circle class="ring" cx="{at:.1f}" cy="{up:.1f}" r="{_RADIUS + 4}"/>' if point.chosen else ""
    reach = f'<circle class="reach" cx="{at:.1f}" cy="{up:.1f}" r="12"/>'  # a target large enough for a pointer
    return f'<g class="mark"><title>{_esc(point.title)}</title>{reach}{ring}{shape}</g>'


def _place(points: Sequence[Point], sx: Scale, sy: Scale, levels: Sequence[Level]) -> list[str]:
    """Labels in places that cover no point and no other label; one that finds none is left to its hover title.

    Crossing a bar or a line is allowed at a price. The recommended variant chooses first, then the Pareto set.
    """
    lines = [sy(level.y) for level in levels]
    taken: list[_Box] = [
        (_LEFT, sy(level.y) - _LINE, _LEFT + len(level.label) * _GLYPH, sy(level.y)) for level in levels if level.label
    ]
    strokes = _strokes(points, sx, sy)
    for point in points:
        at, up = sx(point.x), sy(point.y)
        taken.append((at - _RADIUS - 1, up - _RADIUS - 1, at + _RADIUS + 1, up + _RADIUS + 1))
    placed = {}
    for i in sorted(range(len(points)), key=lambda i: (not points[i].chosen, not points[i].pareto, i)):
        free = [c for c in _candidates(points[i], sx, sy) if not _covers(c[1], taken)]
        if free:
            others = [(sx(point.x), sy(point.y)) for j, point in enumerate(points) if j != i]
            costs = [c[0] + _crossings(c[1], strokes, lines) + _crowding(c[1], others) for c in free]
            placed[i] = free[costs.index(min(costs))]
            taken.append(placed[i][1])
    texts = []
    for i, (_, (left, _top, right, bottom), leader) in sorted(placed.items()):
        point = points[i]
        line = ""
        if leader:
            line = f'<path class="leader" d="M{sx(point.x):.1f} {sy(point.y):.1f}L{leader[0]:.1f} {leader[1]:.1f}"/>'
        style = "label chosen" if point.chosen else "label" if point.pareto else "label off"
        texts.append(
            f'{line}<text class="{style}" x="{(left + right) / 2:.1f}" y="{bottom - 3.5:.1f}" '
            f'text-anchor="middle">{_esc(point.label)}</text>'
        )
    return texts


def _candidates(point: Point, sx: Scale, sy: Scale) -> list[tuple[float, _Box, tuple[float, float] | None]]:
    """(preference, box, end of a leader line or None), the preferred first, all inside the plot."""
    at, up, wide = sx(point.x), sy(point.y), len(point.label) * _GLYPH
    gap = _RADIUS + (8 if point.chosen else 4)
    near = [(gap, 0.5), (gap, 1.1), (gap, -0.1), (-gap - wide, 0.5), (-gap - wide, -0.1), (-gap - wide, 1.1)]
    found: list[tuple[float, _Box, tuple[float, float] | None]] = []
    for rank, (shift, lift) in enumerate(near):
        top = up - _LINE * lift
        found.append((float(rank), (at + shift, top, at + shift + wide, top + _LINE), None))
    for rank, lift in enumerate((-gap - _LINE, gap)):
        found.append((2.5 + rank, (at - wide / 2, up + lift, at + wide / 2, up + lift + _LINE), None))
    for distance in (30, 46, 64):
        for dx, dy in ((0.6, -0.8), (0.6, 0.8), (-0.6, -0.8), (-0.6, 0.8), (0, -1), (0, 1)):
            x, y = at + dx * distance, up + dy * distance
            left = x if dx > 0 else x - wide if dx < 0 else x - wide / 2
            box = (left, y - _LINE / 2, left + wide, y + _LINE / 2)
            found.append((8.0 + distance / 6, box, (x, y - _LINE / 2 if dx == 0 and dy > 0 else y)))
    inside = [
        c
        for c in found
        if c[1][0] >= _LEFT and c[1][2] <= WIDTH - 2 and c[1][1] >= 2 and c[1][3] <= HEIGHT - _BOTTOM - 1
    ]
    return [(rank, box, _shortened(at, up, leader)) for rank, box, leader in inside]


def _shortened(x: float, y: float, end: tuple[float, float] | None) -> tuple[float, float] | None:
    """A leader stops just short of its label."""
    if end is None:
        return None
    length = hypot(end[0] - x, end[1] - y)
    share = max(0.0, (length - 3) / length)
    return x + (end[0] - x) * share, y + (end[1] - y) * share


def _strokes(points: Sequence[Point], sx: Scale, sy: Scale) -> list[tuple[float, float]]:
    """Points about 4 units apart along the Pareto lines and the error bars."""
    ends = []
    for group in {point.group for point in points}:
        ends += list(pairwise((sx(p.x), sy(p.y)) for p in points if p.pareto and p.group == group))
    for p in points:
        if p.error:
            ends.append(((sx(p.x), sy(p.y + p.error)), (sx(p.x), sy(max(p.y - p.error, sy.low)))))
    samples = []
    for (x0, y0), (x1, y1) in ends:
        count = max(2, int(hypot(x1 - x0, y1 - y0) / 4))
        samples += [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(count + 1)]
    return samples


def _covers(box: _Box, taken: Sequence[_Box]) -> bool:
    left, top, right, bottom = box
    return any(left - 3 < x1 and x0 < right + 3 and top < y1 and y0 < bottom for x0, y0, x1, y1 in taken)


def _crossings(box: _Box, strokes: Sequence[tuple[float, float]], lines: Sequence[float]) -> float:
    left, top, right, bottom = box
    crossed = sum(left <= x <= right and top <= y <= bottom for x, y in strokes)
    return 0.8 * crossed + 2.0 * sum(top <= y <= bottom for y in lines)


def _crowding(box: _Box, others: Sequence[tuple[float, float]]) -> float:
    """A label close to another point seems to be that point's."""
    left, top, right, bottom = box
    gaps = (hypot(max(left - x, x - right, 0.0), max(top - y, y - bottom, 0.0)) for x, y in others)
    return sum(max(0.0, 14.0 - gap) * 0.6 for gap in gaps)


def _esc(text: str) -> str:
    return html.escape(text)
