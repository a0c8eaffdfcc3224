"""Tables for the terminal. Columns are dropped, those of the lowest priority first, until the table fits the width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Only a rule under the head: alignment separates the columns.
# Called ASCII so that rich keeps it in every encoding. Where there is no "─", the output is written with "-" instead.
_HEAD_RULE = Box("    \n    \n ── \n    \n    \n    \n    \n    \n", ascii=True)


ERROR, RANGE = "±", "range"
"""The headers of columns that belong to the column before them: its standard errors, or the ranges of its values."""


@dataclass(frozen=True)
class Column:
    """A column of a terminal table. The higher its `priority`, the later it is dropped."""

    header: str
    cells: list[Text]
    priority: float
    left: bool = False


def width_of(table: Table) -> int:
    """The width in characters that the whole table needs."""
    measuring = Console(width=100_000, color_system=None)
    return measuring.measure(table).maximum


def table(styles: Sequence[str], columns: Sequence[Column]) -> Table:
    """A table with one row for each of `styles`."""
    found = Table(box=_HEAD_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        found.add_column(
            Text(column.header), justify="left" if column.left else "right", no_wrap=True, overflow="ellipsis"
        )
    for i, style in enumerate(styles):
        found.add_row(*(column.cells[i] for column in columns), style=style)
    return found


def fit_to_width(
    styles: Sequence[str], fixed: Sequence[Column], columns: Sequence[Column], width: int
) -> tuple[Table, list[str]]:
    """The table with as many of `columns` as fit, after all of `fixed`, and the headers of the dropped columns.

    Columns of errors and ranges are not listed as dropped.
    """
    shown = list(columns)
    dropped = []
    while width_of(found := table(styles, [*fixed, *shown])) > width and shown:
        least = min(shown, key=lambda column: column.priority)
        shown = [column for column in shown if column is not least]
        dropped += [least.header] if least.header not in (ERROR, RANGE) else []
    return found, dropped
