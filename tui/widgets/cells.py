"""The cells of a run as a table, a variant a row and a measurement a column: what each found, or how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from sweep.planning.cells import PROCEDURES
from sweep.planning.plan import Plan
from sweep.progress import CellState
from sweep.report import text
from tui.theme import Palette, palette

SIGNS = {"waiting": "·", "known": "✓", "running": "▶", "done": "✓", "failed": "✗"}
BAR = 6  # characters of a cell's progress


class Cells(DataTable[Any]):
    """A cell is highlighted; `label` is its name."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("h", "cursor_left", "Left", show=False),
        Binding("l", "cursor_right", "Right", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="cell", fixed_columns=1)
        self._labels: dict[tuple[int, int], str] = {}
        self._shown: dict[tuple[str, str], str] = {}
        self._run = ""

    @property
    def label(self) -> str | None:
        """The highlighted cell, as VARIANT/NAME."""
        return self._labels.get((self.cursor_coordinate.row, self.cursor_coordinate.column))

    def show(self, plan: Plan, cells: Mapping[str, CellState], figures: Mapping[str, str]) -> None:
        """Show the states of a run; only what changed is drawn again."""
        if self._run != plan.run:
            self._lay_out(plan)
        colours = palette(self.app)
        for cell in plan.cells:
            state = cells[cell.label]
            told = told_of(state, figures.get(cell.label), colours)
            place = cell.variant, cell.name
            mark = f"{told.plain}{told.spans}"
            if self._shown.get(place) != mark:
                self._shown[place] = mark
                self.update_cell(cell.variant, cell.name, told, update_width=True)

    def go_to(self, label: str) -> None:
        """Highlight a cell."""
        for (row, column), known in self._labels.items():
            if known == label:
                self.cursor_coordinate = Coordinate(row, column)

    def _lay_out(self, plan: Plan) -> None:
        self.clear(columns=True)
        self._labels, self._shown, self._run = {}, {}, plan.run
        steps = list(PROCEDURES)  # in the order in which a variant goes through them
        names = list(dict.fromkeys(cell.name for cell in sorted(plan.cells, key=lambda cell: steps.index(cell.kind))))
        tasks = {cell.name for cell in plan.cells if cell.kind == "task"}
        variants = list(dict.fromkeys(cell.variant for cell in plan.cells))
        self.add_column("variant", key="")
        for name in names:
            shown = text.shorten(text.plain(name), 16) if name in tasks else name
            self.add_column(shown, key=name, width=None)
        colours, shared = palette(self.app), _shared(plan)
        for row, variant in enumerate(variants):
            blank = [Text(shared.get((variant, name), ""), colours.faint) for name in names]
            self.add_row(Text(text.shorten(text.plain(variant), 24), colours.ink), *blank, key=variant)
            for column, name in enumerate(names, 1):
                if any(cell.variant == variant and cell.name == name for cell in plan.cells):
                    self._labels[row, column] = f"{variant}/{name}"
        if names:
            self.cursor_coordinate = Coordinate(0, 1)


def _shared(plan: Plan) -> dict[tuple[str, str], str]:
    """By variant and step: whose file it is, where a variant reads what is made for another."""
    making = {cell.key: cell for cell in plan.cells if cell.kind == "quantize"}
    found = {}
    for cell in plan.cells:
        for made in (making[key] for key in cell.needs if key in making):
            if made.variant != cell.variant:
                found[cell.variant, made.name] = f"= {text.plain(made.variant)}"
    return found


def told_of(state: CellState, figure: str | None, colours: Palette) -> Text:
    """A sign, and the figure that was found or how far the cell is."""
    styles: dict[str, Style] = {"running": colours.accent, "failed": colours.bad, "waiting": colours.faint}
    sign = Text(SIGNS[state.status], styles.get(state.status, colours.good), no_wrap=True)
    if state.status == "running":
        full = round(BAR * state.share)
        return sign.append(" " + "━" * full, colours.accent).append("━" * (BAR - full), colours.faint)
    if state.status == "failed":
        return sign.append(" failed", colours.bad)
    if state.status == "waiting":
        return sign
    return sign.append(f" {figure or 'done'}", colours.ink if state.status == "done" else colours.soft)
