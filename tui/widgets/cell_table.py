"""The cells of a run as a table, a variant a row and a measurement a column: what each found, or how far it is."""

from __future__ import annotations

from collections.abc import Mapping

from rich.style import Style
from rich.text import Text

from sweep import format as fmt
from sweep.jobs.registry import stored_kinds
from sweep.jobs.task import TaskJob
from sweep.results.plan import Plan
from sweep.results.progress import CellState
from tui.theme import Palette, palette
from tui.widgets.table import Table

SIGNS = {"waiting": "·", "known": "✓", "running": "▶", "done": "✓", "failed": "✗"}
BAR = 6  # characters of a cell's progress


class CellTable(Table):
    """A cell is highlighted; `label` is its name."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(cursor="cell", id=id)
        self._places: dict[str, tuple[str, int]] = {}  # of a label: its row's key and its column

    @property
    def label(self) -> str | None:
        """The highlighted cell, as VARIANT/NAME."""
        place = self.highlighted, self.cursor_column
        return next((label for label, known in self._places.items() if known == place), None)

    def show(self, plan: Plan, cells: Mapping[str, CellState], figures: Mapping[str, str]) -> None:
        """Show the states of a run."""
        colours = palette(self.app)
        steps = list(stored_kinds())  # in the order in which a variant goes through them
        ordered = dict.fromkeys(cell.name for cell in sorted(plan.cells, key=lambda cell: steps.index(cell.kind)))
        names = {name: column for column, name in enumerate(ordered, 1)}
        self._places = {cell.label: (cell.variant, names[cell.name]) for cell in plan.cells}
        tasks = {cell.name for cell in plan.cells if isinstance(cell.job, TaskJob)}
        rows = {
            cell.variant: [Text(fmt.shorten(fmt.plain(cell.variant), 24), colours.ink), *(Text() for _ in names)]
            for cell in plan.cells
        }
        for (variant, name), words in _shared(plan).items():
            rows[variant][names[name]] = Text(words, colours.faint)
        for cell in plan.cells:
            rows[cell.variant][names[cell.name]] = told_of(cells[cell.label], figures.get(cell.label), colours)
        heads = ["variant", *(fmt.shorten(fmt.plain(name), 16) if name in tasks else name for name in names)]
        self.fill([(head, True) for head in heads], list(rows.items()))

    def go_to_cell(self, label: str) -> None:
        """Highlight a cell."""
        if label in self._places:
            self.go_to(*self._places[label])


def _shared(plan: Plan) -> dict[tuple[str, str], str]:
    """By variant and step: whose file it is, where a variant reads what is made for another."""
    making = {cell.key: cell for cell in plan.cells if cell.job.is_preparation}
    found = {}
    for cell in plan.cells:
        for made in (making[key] for key in cell.needs if key in making):
            if made.variant != cell.variant:
                found[cell.variant, made.name] = f"= {fmt.plain(made.variant)}"
    return found


def told_of(state: CellState, figure: str | None, colours: Palette) -> Text:
    """A sign, and the figure that was found or how far the cell is."""
    styles: dict[str, Style] = {"running": colours.accent, "failed": colours.bad, "waiting": colours.faint}
    sign = Text(SIGNS[state.status], styles.get(state.status, colours.good), no_wrap=True)
    if state.status == "running":
        return sign.append(" ").append(bar(state.share, BAR, colours))
    if state.status == "failed":
        return sign.append(" failed", colours.bad)
    if state.status == "waiting":
        return sign
    return sign.append(f" {figure or 'done'}", colours.ink if state.status == "done" else colours.soft)


def bar(share: float, width: int, colours: Palette) -> Text:
    """A share, 0 to 1, as a line that is thick as far as it goes, so that it reads without colours."""
    full = round(width * share)
    return Text.assemble(("━" * full, colours.accent), ("─" * (width - full), colours.faint), no_wrap=True)
