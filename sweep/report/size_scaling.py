"""The comparison of model sizes in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.size_choice import SizeChoice
from sweep.analysis.size_scaling import SizeScaling
from sweep.fit.memory_limit import MemoryLimit
from sweep.report.columns import Column, fit_to_width
from sweep.report.size_words import FrontierRow, SizeTable, choice_sentences, frontier_rows, size_tables

FRONTIER_TITLE = "Which model and quant for how much memory"
_COLUMNS = (  # head, cell, priority, left
    ("from", lambda row: row.memory, inf, False),
    ("run", lambda row: row.pick, inf, True),
    ("score %", lambda row: row.score, 3, False),
    ("PPL", lambda row: row.perplexity, 2, False),
    ("against", lambda row: row.other, 5, True),
    ("points (95 %)", lambda row: row.points, 4, True),
    ("PPL difference (95 %)", lambda row: row.perplexity_lead, 1, True),
    ("shown by", lambda row: row.shown_by, 6, True),
)


def render_sizes(
    scaling: SizeScaling, steps: Sequence[SizeChoice], choice: SizeChoice, limit: MemoryLimit, console_width: int
) -> RenderableType:
    """For `console.print`: the tables, the frontier, notes, and the choice for the limit."""
    parts: list[RenderableType] = []
    for table in size_tables(scaling):
        parts += [Text(), Text(table.title, "bold"), Text(), _render(table, console_width)]
    if steps:
        columns = _columns(frontier_rows(scaling, steps))
        fixed = [column for column in columns if column.priority == inf]
        others = [column for column in columns if column.priority < inf]
        shown, dropped = fit_to_width(["" for _ in steps], fixed, others, console_width)
        parts += [Text(), Text(FRONTIER_TITLE, "bold"), Text(), shown, Text(), *_legend(dropped)]
    parts += [line for note in scaling.notes for line in (Text(), Text(fmt.plain(note)))]
    first, *more = choice_sentences(scaling, choice, limit)
    sign = Text("! ", "bold yellow") if choice.pick is None else Text(f"{fmt.CHOSEN} ", "bold green")
    parts += [Text(), Text.assemble(sign, (first, "bold")), *(Text(f"  {line}") for line in more)]
    return Group(*parts)


def _render(table: SizeTable, width: int) -> RenderableType:
    names = Column("variant", [Text(name) for name, _ in table.rows], inf, left=True)
    columns = [
        Column(head, [Text(cells[place] or fmt.MISSING) for _, cells in table.rows], -place)
        for place, head in enumerate(table.heads)
    ]
    shown, dropped = fit_to_width(["" for _ in table.rows], [names], columns, width)
    return Group(shown, *([Text(f"Not shown at this width: {', '.join(dropped)}.", "dim")] if dropped else []))


def _columns(rows: Sequence[FrontierRow]) -> list[Column]:
    """The columns that some row has a cell for."""
    return [
        Column(head, [Text(cell(row) or fmt.MISSING) for row in rows], priority, left)
        for head, cell, priority, left in _COLUMNS
        if any(cell(row) for row in rows)
    ]


def _legend(dropped: Sequence[str]) -> list[Text]:
    lines = [
        "Each row begins where the choice or its closest rival changes. from: the memory that is predicted for "
        "weights, KV cache and buffers. against: the other model at its best variant that fits; differences are "
        "paired. shown by: the figure whose 95 % interval excludes 0; open: none does."
    ]
    lines += [f"Not shown at this width: {', '.join(dropped)}."] if dropped else []
    return [Text(line, "dim") for line in lines]
