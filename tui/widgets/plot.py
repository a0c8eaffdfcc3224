"""A scatter plot of variants: error bars, log axes, the Pareto set as a line, and a mark on the highlighted variant.

The points and the Pareto set come from sweep.analysis.plots; this module draws them with characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import hypot
from operator import itemgetter

from rich.segment import Segment
from rich.style import Style
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from sweep.analysis.plots import Axis, Level, Point
from sweep.report.axes import Scale, positive, spread, ticks
from tui.theme import Palette, palette
from tui.widgets.braille import ACROSS, DOWN, Canvas

_BLANK = " ", Style()
MARK_PARETO, MARK_INDISTINGUISHABLE, MARK_OFF, MARK_CHOSEN = "●", "○", "·", "◆"


@dataclass(frozen=True)
class Drawing:
    """The content of a plot. `limit` is the memory of the GPUs on the x axis, and its label."""

    title: str
    points: tuple[Point, ...]
    x: Axis
    y: Axis
    levels: tuple[Level, ...] = ()
    limit: tuple[float, str] | None = None


class Plot(Widget):
    """Shows a Drawing. A click picks the nearest point."""

    class Picked(Message):
        """A point was clicked."""

        def __init__(self, variant: str) -> None:
            self.variant = variant
            super().__init__()

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._drawing: Drawing | None = None
        self._cursor = ""
        self._marked: frozenset[str] = frozenset()
        self._strips: list[Strip] | None = None
        self._places: dict[str, tuple[int, int]] = {}

    def show(self, drawing: Drawing | None) -> None:
        self._drawing = drawing
        self._redraw()

    def point_at(self, variant: str, marked: frozenset[str] = frozenset()) -> None:
        """Show which variant is highlighted and which ones are marked for a comparison."""
        if (variant, marked) != (self._cursor, self._marked):
            self._cursor, self._marked = variant, marked
            self._redraw()

    @property
    def places(self) -> dict[str, tuple[int, int]]:
        """The places of the points, in character cells of the widget."""
        self._lines()
        return dict(self._places)

    def _redraw(self) -> None:
        self._strips = None
        self.refresh()

    def notify_style_update(self) -> None:
        self._strips = None
        super().notify_style_update()

    def on_resize(self) -> None:
        self._redraw()

    def on_click(self, event: Click) -> None:
        if self._places:
            distances = {v: hypot(x - event.x, 2 * (y - event.y)) for v, (x, y) in self._places.items()}
            self.post_message(self.Picked(min(distances, key=lambda variant: distances[variant])))

    def render_line(self, y: int) -> Strip:
        strips = self._lines()
        return strips[y] if y < len(strips) else Strip.blank(self.size.width, self.rich_style)

    def _lines(self) -> list[Strip]:
        if self._strips is None:
            ground = self.rich_style
            grid = _Grid(self.size, palette(self.app))
            self._places = {}
            if self._drawing is not None:
                self._places = grid.draw(self._drawing, self._cursor, self._marked)
            self._strips = grid.strips(ground)
        return self._strips


class _Grid:
    """Characters with their styles, row by row."""

    def __init__(self, size: Size, colours: Palette) -> None:
        self.width, self.height, self.colours = size.width, size.height, colours
        self._cells: dict[tuple[int, int], tuple[str, Style]] = {}

    def write(self, x: int, y: int, text: str, style: Style) -> None:
        for shift, letter in enumerate(text):
            if 0 <= x + shift < self.width and 0 <= y < self.height:
                self._cells[x + shift, y] = letter, style

    def strips(self, ground: Style) -> list[Strip]:
        rows = []
        for y in range(self.height):
            cells = (self._cells.get((x, y), _BLANK) for x in range(self.width))
            segments = []
            for style, run in groupby(cells, key=itemgetter(1)):
                segments.append(Segment("".join(letter for letter, _ in run), ground + style))
            rows.append(Strip(segments, self.width))
        return rows

    def draw(self, drawing: Drawing, cursor: str, marked: frozenset[str]) -> dict[str, tuple[int, int]]:
        """Draw everything. Returns the places of the points."""
        colours = self.colours
        points = [point for point in drawing.points if not drawing.y.log or positive(point.y)]
        logs = [name for name, axis in (("y", drawing.y), ("x", drawing.x)) if axis.log]
        scale = f" (log {' and '.join(logs)})" if logs else ""
        title = f"{drawing.title} against {drawing.x.label}{scale}"
        self.write(0, 0, title[: self.width], colours.soft)
        if not points or self.width < 24 or self.height < 7:
            self.write(0, 1, "no room to plot" if points else "nothing to plot yet", colours.faint)
            return {}
        low, high = _values(points, drawing)
        ups = ticks(low, high, log=drawing.y.log, most=max(2, (self.height - 3) // 3))
        margin = max(len(drawing.y.write(value)) for value in ups) + 1 if ups else 2
        left, top, right, bottom = margin + 1, 1, self.width - 1, self.height - 3
        limit = _near(drawing)
        across = spread([p.x for p in points] + ([] if limit is None else [limit[0]]), drawing.x.log, 0.06)
        sx = Scale(*across, left * ACROSS, right * ACROSS - 1, drawing.x.log)
        sy = Scale(low, high, (bottom + 1) * DOWN - 1, top * DOWN, drawing.y.log)
        self._axes(drawing, ups, sx, sy, (left, top, right, bottom))
        self._lines(drawing, points, sx, sy)
        places = {p.variant: (round(sx(p.x)) // ACROSS, round(sy(p.y)) // DOWN) for p in points}
        for point in sorted(points, key=lambda p: (p.pareto, p.chosen, p.variant in marked, p.variant == cursor)):
            self._mark(point, places[point.variant], point.variant == cursor, point.variant in marked)
        self._labels(points, places, cursor, (left, top, right, bottom))
        return places

    def _axes(
        self, drawing: Drawing, ups: Sequence[float], sx: Scale, sy: Scale, frame: tuple[int, int, int, int]
    ) -> None:
        left, top, right, bottom = frame
        faint, soft = self.colours.faint, self.colours.soft
        for y in range(top, bottom + 1):
            self.write(left - 1, y, "│", faint)
        self.write(left - 1, bottom + 1, "└" + "─" * (right - left), faint)
        for value in ups:
            row = round(sy(value)) // DOWN
            text = drawing.y.write(value)
            self.write(left - 1 - len(text) - 1, row, text, soft)
            self.write(left - 1, row, "┤", faint)
        free = left
        for value in ticks(sx.low, sx.high, log=drawing.x.log, most=max(2, (right - left) // 10)):
            column, text = round(sx(value)) // ACROSS, drawing.x.write(value)
            start = min(max(column - len(text) // 2, left), right - len(text))
            if start >= free:
                self.write(column, bottom + 1, "┴", faint)
                self.write(start, bottom + 2, text, soft)
                free = start + len(text) + 2

    def _lines(self, drawing: Drawing, points: Sequence[Point], sx: Scale, sy: Scale) -> None:
        """Draw levels, the memory limit, the Pareto set and the error bars; later ones cover earlier ones."""
        for level in drawing.levels:
            if sy.low <= level.y <= sy.high and positive(level.y):
                row = round(sy(level.y)) // DOWN
                self.write(int(sx.start) // ACROSS, row, "╌" * (int(sx.end - sx.start) // ACROSS), self.colours.faint)
                self.write(int(sx.start) // ACROSS + 1, row, level.label, self.colours.faint)
        limit = _near(drawing)
        if limit is not None:
            column = round(sx(limit[0])) // ACROSS
            for row in range(int(sy.end) // DOWN, int(sy.start) // DOWN + 1):
                self.write(column, row, "┊", self.colours.warn)
            words = limit[1]
            self.write(max(column - len(words) - 1, 0), int(sy.end) // DOWN, words, self.colours.warn)
        pareto_line = Canvas(self.width, self.height)
        for group in {point.group for point in points}:
            members = sorted((p for p in points if p.pareto and p.group == group), key=lambda p: p.x)
            for a, b in pairwise(members):
                pareto_line.line(round(sx(a.x)), round(sy(a.y)), round(sx(b.x)), round(sy(b.y)), every=2)
        bars = Canvas(self.width, self.height)
        for point in points:
            if point.error:
                low = max(point.y - point.error, sy.low)
                bars.line(round(sx(point.x)), round(sy(point.y + point.error)), round(sx(point.x)), round(sy(low)))
        for canvas, style in ((pareto_line, self.colours.faint), (bars, self.colours.soft)):
            for (x, y), letter in canvas.cells().items():
                self.write(x, y, letter, style)

    def _mark(self, point: Point, place: tuple[int, int], highlighted: bool, marked: bool) -> None:
        sign = MARK_CHOSEN if point.chosen else MARK_OFF
        if point.pareto and not point.chosen:
            sign = MARK_INDISTINGUISHABLE if point.indistinguishable else MARK_PARETO
        style = self.colours.good if point.chosen else self.colours.accent if point.pareto else self.colours.faint
        if marked:
            style = self.colours.warn
        if highlighted:
            self.write(place[0] - 1, place[1], f"[{MARK_OFF if sign == MARK_OFF else sign}]", self.colours.ink)
            style += Style(bold=True)
        self.write(place[0], place[1], sign, style)

    def _labels(
        self,
        points: Sequence[Point],
        places: dict[str, tuple[int, int]],
        cursor: str,
        frame: tuple[int, int, int, int],
    ) -> None:
        """Write names where they cover no point and no other name; first the highlighted and the recommended ones."""
        left, top, right, bottom = frame
        taken = {(x + shift, y) for x, y in places.values() for shift in (-1, 0, 1)}
        for point in sorted(points, key=lambda p: (p.variant != cursor, not p.chosen, not p.pareto)):
            x, y = places[point.variant]
            wide = len(point.label)
            for start, row in ((x + 2, y), (x - 1 - wide, y), (x + 2, y - 1), (x - wide // 2, y - 1), (x + 2, y + 1)):
                cells = {(start + i, row) for i in range(-1, wide + 1)}
                if start > left and start + wide <= right and top <= row <= bottom and not cells & taken:
                    style = self.colours.soft if point.pareto else self.colours.faint
                    if point.variant == cursor:
                        style = self.colours.ink + Style(bold=True)
                    self.write(start, row, point.label, style)
                    taken |= cells
                    break


def _near(drawing: Drawing) -> tuple[float, str] | None:
    """The memory limit, if it is near enough to the points not to squeeze the plot."""
    largest = max((point.x for point in drawing.points), default=0.0)
    return drawing.limit if drawing.limit is not None and drawing.limit[0] <= 2.5 * largest else None


def _values(points: Sequence[Point], drawing: Drawing) -> tuple[float, float]:
    """The range of the y axis: points, error bars and levels."""
    ends = [v for p in points for v in (p.y, p.y - (p.error or 0), p.y + (p.error or 0))]
    ends += [level.y for level in drawing.levels]
    return spread([v for v in ends if positive(v) or not drawing.y.log], drawing.y.log, 0.08)
