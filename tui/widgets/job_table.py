"""The jobs of a run as a table: a row per variant, a column per measurement; each cell has a result or progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text

from sweep import format as fmt
from sweep.endings import Ending
from sweep.jobs.cell import Cell
from sweep.jobs.registry import stored_kinds
from sweep.jobs.task import TaskJob
from sweep.results.cell_state import CellState
from tui.theme import Palette, palette
from tui.widgets.table import Table

SIGNS = {"waiting": "·", "known": "✓", "running": "▶", "done": "✓"} | {
    ending: fmt.STATUS_SIGNS[ending] for ending in Ending
}
BAR = 6  # characters of the progress bar in a cell


class JobTable(Table):
    """A table in which one cell is highlighted."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(cursor="cell", id=id)
        self._places: dict[str, tuple[str, int]] = {}  # by label: the key of the row, and the column

    @property
    def label(self) -> str | None:
        """The label of the highlighted cell: VARIANT/NAME."""
        place = self.highlighted, self.cursor_column
        return next((label for label, known in self._places.items() if known == place), None)

    def show(
        self, planned: Sequence[Cell], added: Sequence[Cell], cells: Mapping[str, CellState], figures: Mapping[str, str]
    ) -> None:
        """Show the states of a run's cells. Columns of those that were added come last, so that no other moves."""
        colours = palette(self.app)
        steps = list(stored_kinds())  # in the order in which they are done for a variant
        in_order = sorted(planned, key=lambda cell: steps.index(cell.kind))
        jobs, ordered = (*planned, *added), dict.fromkeys(cell.name for cell in (*in_order, *added))
        names = {name: column for column, name in enumerate(ordered, 1)}
        self._places = {cell.label: (cell.variant, names[cell.name]) for cell in jobs}
        tasks = {cell.name for cell in jobs if isinstance(cell.job, TaskJob)}
        rows = {
            cell.variant: [Text(fmt.shorten(fmt.plain(cell.variant), 24), colours.ink), *(Text() for _ in names)]
            for cell in jobs
        }
        for (variant, name), words in _shared(jobs).items():
            rows[variant][names[name]] = Text(words, colours.faint)
        for cell in jobs:
            rows[cell.variant][names[cell.name]] = cell_text(cells[cell.label], figures.get(cell.label), colours)
        heads = ["variant", *(fmt.shorten(fmt.plain(name), 16) if name in tasks else name for name in names)]
        self.fill([(head, True) for head in heads], list(rows.items()))

    def go_to_cell(self, label: str) -> None:
        """Highlight a cell."""
        if label in self._places:
            self.go_to(*self._places[label])


def _shared(jobs: Sequence[Cell]) -> dict[tuple[str, str], str]:
    """By variant and name of a cell: the name of the other variant whose file this variant uses."""
    preparations = {cell.key: cell for cell in jobs if cell.job.is_preparation}
    found = {}
    for cell in jobs:
        for made in (preparations[key] for key in cell.needs if key in preparations):
            if made.variant != cell.variant:
                found[cell.variant, made.name] = f"= {fmt.plain(made.variant)}"
    return found


def ending_styles(colours: Palette) -> dict[str, Style]:
    """The styles of cells without a whole result."""
    return {Ending.FAILED: colours.bad, Ending.CANCELLED: colours.warn, Ending.SKIPPED: colours.soft}


def cell_text(state: CellState, figure: str | None, colours: Palette) -> Text:
    """The content of a cell: a sign, and its result or progress."""
    styles: dict[str, Style] = {"running": colours.accent, "waiting": colours.faint} | ending_styles(colours)
    sign = Text(SIGNS[state.status], styles.get(state.status, colours.good), no_wrap=True)
    if state.status == "running":
        return sign.append(" ").append(bar(state.share, BAR, colours))
    if state.status in tuple(Ending) and not figure:
        return sign.append(f" {state.status}")
    if state.status == "waiting":
        return sign
    return sign.append(f" {figure or 'done'}", colours.ink if state.status == "done" else colours.soft)


def bar(share: float, width: int, colours: Palette) -> Text:
    """A progress bar for a share from 0 to 1: a thick line, then a thin one, so that it is readable without colours."""
    full = round(width * share)
    return Text.assemble(("━" * full, colours.accent), ("─" * (width - full), colours.faint), no_wrap=True)
