"""The variants of a run as rows that can be sorted by any figure, with the columns that are not hidden."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import inf

from rich.text import Text

from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.ptq_study import study_comparison
from sweep.record import Record
from sweep.report.columns import ERROR, RANGE, Column
from sweep.report.figure_columns import FigureColumn, figures_shown
from sweep.report.ptq_study import perplexity_text
from sweep.report.results_table import figure_columns
from tui.state.results import Results
from tui.state.sorting import Sorting
from tui.theme import Palette

STUDY = "study PPL"
_FIRST = ("bpw", "size", "memory", "KLD", "PPL", STUDY, "top-1 %", "recovery %", "decode t/s")
SortValue = Callable[[Record], float | None]


def sort_values(results: Results) -> dict[str, SortValue]:
    """By head of a column, the value that rows are sorted by."""
    found: dict[str, SortValue] = {column.short: _figure(column) for column in figures_shown(results.rows)}
    found["recovery %"] = lambda record: mean.value if (mean := results.recovery.get(record.variant)) else None
    found[STUDY] = lambda record: record.study.wikitext2 if record.study else None
    for task in figures.task_names(results.rows):
        found[fmt.shorten(fmt.plain(task), 18)] = _score(task)
    return found


def _figure(column: FigureColumn) -> SortValue:
    return lambda record: found.value if (found := column.value(record)) else None


def _score(task: str) -> SortValue:
    return lambda record: record.tasks[task].value if task in record.tasks else None


def ordered(results: Results, sorting: Sorting) -> list[Record]:
    """The rows in this order. Equal rows stay in the order of their sizes."""
    value = sort_values(results).get(sorting.head, lambda r: r.bits_per_weight)

    def key(record: Record) -> tuple[bool, float]:
        found = figures.finite(value(record))
        return found is None, 0.0 if found is None else -found if sorting.down else found

    return sorted(results.rows, key=key)


def table_rows(
    results: Results,
    sorting: Sorting,
    marked: Mapping[str, str],
    matches: Callable[[str], bool],
    width: int,
    colours: Palette,
    hidden: Collection[str] = (),
) -> tuple[list[tuple[str, bool]], list[tuple[str, list[Text]]]]:
    """Heads, and rows with the variant as key.

    `marked` are the letters of variants that are marked for a comparison; `matches` says whether a variant is shown;
    `hidden` are the heads of columns that are not.
    """
    rows = [row for row in ordered(results, sorting) if matches(row.variant)]
    chosen = results.choice.variant if results.choice else None
    sign = [_sign(row, results, chosen, marked, colours) for row in rows]
    longest = max(10, min(32, width // 4))
    names = [
        Text(fmt.shorten(fmt.plain(row.variant), longest), "bold" if row.variant == chosen else "") for row in rows
    ]
    fixed = [Column("", sign, inf, left=True), Column("variant", names, inf, left=True)]
    shown = [column for column in _columns(rows) if column.header not in hidden]
    heads = [(sorting.marked(c.header), c.left) for c in [*fixed, *shown]]
    faded = [row.status in fmt.UNMEASURED for row in rows]
    cells = []
    for index, row in enumerate(rows):
        line = [colours.text(column.cells[index]) for column in [*fixed, *shown]]
        if faded[index]:
            for cell in line[1:]:
                cell.stylize(colours.faint)
        cells.append((row.variant, line))
    return heads, cells


def column_heads(results: Results) -> list[str]:
    """The heads of all columns that can be hidden."""
    return [column.header for column in _columns(results.rows)]


def _columns(rows: Sequence[Record]) -> list[Column]:
    """All columns of figures, the most important ones first, because the others may need scrolling."""
    columns = [*_with_errors(figure_columns(rows)), *_study_columns(rows)]
    return sorted(columns, key=lambda column: _FIRST.index(column.header) if column.header in _FIRST else len(_FIRST))


def _study_columns(rows: Sequence[Record]) -> list[Column]:
    """The perplexity on WikiText-2 in a published study, if it has figures for quantized variants of the model."""
    if study_comparison(rows) is None or not any(row.study and row.study.wikitext2 for row in rows):
        return []
    texts = [perplexity_text(row.study.wikitext2) if row.study else None for row in rows]
    return [Column(STUDY, [Text(text or fmt.MISSING) for text in texts], 0)]


def _sign(row: Record, results: Results, chosen: str | None, marked: Mapping[str, str], colours: Palette) -> Text:
    first, style = " ", colours.faint
    if row.variant in marked:
        first, style = marked[row.variant], colours.warn
    elif row.status in fmt.STATUS_SIGNS:
        first, style = fmt.STATUS_SIGNS[row.status], colours.bad if row.status == "failed" else colours.warn
    elif row.implausible:
        first, style = fmt.IMPLAUSIBLE, colours.warn
    elif row.variant == chosen:
        first, style = fmt.CHOSEN, colours.good
    place = fmt.INDISTINGUISHABLE if row.variant in results.pareto.indistinguishable else fmt.PARETO
    return Text.assemble((first, style), (place if row.variant in results.pareto else " ", colours.accent))


def _with_errors(columns: list[Column]) -> list[Column]:
    """Merge each column of errors into the column of its figures, so that both are shown or hidden together.

    Ranges are left out: the details of a variant show them.
    """
    found: list[Column] = []
    for column in columns:
        if column.header == RANGE:
            continue
        if column.header != ERROR:
            found.append(column)
            continue
        last = found.pop()
        cells = [
            Text.assemble(value, (f" ±{error.plain}", "dim")) if error.plain != fmt.MISSING else value
            for value, error in zip(last.cells, column.cells, strict=True)
        ]
        found.append(replace(last, cells=cells))
    return found
