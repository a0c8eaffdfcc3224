"""Tables for the terminal: aligned columns, the least telling dropped first where the width does not hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A rule under the head and nothing else: columns are told apart by alignment.
_HEAD_RULE = Box("    \n    \n ── \n    \n    \n    \n    \n    \n", ascii=False)


@dataclass(frozen=True)
class Column:
    """`priority`: the higher, the longer the column stays when the terminal gets narrow."""

    header: str
    cells: list[Text]
    priority: float
    left: bool = False


def width_of(table: Table) -> int:
    """Columns the table wants, whatever console it is printed on later."""
    measuring = Console(width=100_000, color_system=None)
    return measuring.measure(table).maximum


def table(styles: Sequence[str], columns: Sequence[Column]) -> Table:
    """One row for each of `styles`."""
    found = Table(box=_HEAD_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        found.add_column(
            Text(column.header), justify="left" if column.left else "right", no_wrap=True, overflow="ellipsis"
        )
    for i, style in enumerate(styles):
        found.add_row(*(column.cells[i] for column in columns), style=style)
    return found


def fit(
    styles: Sequence[str], lead: Sequence[Column], columns: Sequence[Column], width: int
) -> tuple[Table, list[str]]:
    """Drop the column of least priority until the table fits; the names of what went, errors aside."""
    kept = list(columns)
    dropped = []
    while width_of(found := table(styles, [*lead, *kept])) > width and kept:
        least = min(kept, key=lambda column: column.priority)
        kept = [column for column in kept if column is not least]
        dropped += [least.header] if least.header != "±" else []
    return found, dropped
