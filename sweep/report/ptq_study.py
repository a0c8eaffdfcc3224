"""A published study's figures next to those of a run, for the terminal and as a table of the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from rich.console import Group, RenderableType
from rich.text import Text

from presets.ptq_study import StudyRow
from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.ptq_study import StudyComparison
from sweep.record import Record
from sweep.report.columns import Column, fit_to_width
from sweep.report.html_tables import HtmlCell, HtmlRow, HtmlTable


def render_study(found: StudyComparison, console_width: int) -> RenderableType:
    """For `console.print`: the table and its notes."""
    names = Column("variant", [Text(fmt.plain(record.variant)) for record, _ in found.rows], inf, left=True)
    columns = [
        Column(head, [Text(cell or fmt.MISSING) for cell in cells], -place)
        for place, (head, cells) in enumerate(_columns(found))
    ]
    shown, dropped = fit_to_width(["" for _ in found.rows], [names], columns, console_width)
    notes = [*found.notes, *([f"Not shown at this width: {', '.join(dropped)}."] if dropped else [])]
    return Group(
        Text(), Text("Next to a published study", "bold"), Text(), shown, Text(), *(Text(n, "dim") for n in notes)
    )


def study_table(found: StudyComparison) -> HtmlTable:
    columns = _columns(found)
    body = [
        HtmlRow(record.variant, [HtmlCell(cells[place]) for _, cells in columns])
        for place, (record, _) in enumerate(found.rows)
    ]
    return HtmlTable([HtmlCell("Variant"), *(HtmlCell(head) for head, _ in columns)], body, narrow=True)


def _columns(found: StudyComparison) -> Sequence[tuple[str, Sequence[str | None]]]:
    """Heads and cells: for each figure, this run's and the study's."""
    columns: list[tuple[str, Sequence[str | None]]] = []
    if any(row.wikitext2 is not None for _, row in found.rows):
        columns += _perplexities(found)
    for task in found.tasks:
        columns += [
            (f"{task} %", [_score(record, task) for record, _ in found.rows]),
            ("study", [_study_score(row, task) for _, row in found.rows]),
        ]
    return columns


def _perplexities(found: StudyComparison) -> list[tuple[str, Sequence[str | None]]]:
    return [
        ("PPL", [perplexity_text(_perplexity(record)) for record, _ in found.rows]),
        ("study: WikiText-2", [perplexity_text(row.wikitext2) for _, row in found.rows]),
        ("study: C4", [perplexity_text(row.c4) for _, row in found.rows]),
    ]


def _perplexity(record: Record) -> float | None:
    value = figures.perplexity(record)
    return None if value is None else value.value


def perplexity_text(value: float | None) -> str | None:
    """A perplexity with three digits, as in the study; thousands in full, larger ones as 5.25e4."""
    if value is None:
        return None
    return (
        f"{value:.2e}".replace("e+0", "e")
        if value >= 9999.5
        else f"{value:,.0f}"
        if value >= 99.95
        else f"{value:#.3g}"
    )


def _score(record: Record, task: str) -> str | None:
    value = figures.finite(record.tasks[task].value) if task in record.tasks else None
    return None if value is None else f"{100 * value:.1f}"


def _study_score(row: StudyRow, task: str) -> str | None:
    return f"{row.tasks[task]:.1f}" if task in row.tasks else None
