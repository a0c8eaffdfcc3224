"""The comparison with records of another machine, in the terminal."""

from __future__ import annotations

from math import inf

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.record_files import RecordComparison, SharedDifference
from sweep.report.columns import Column, fit_to_width


def render_record_comparison(found: RecordComparison, console_width: int) -> RenderableType:
    """For `console.print`: the two sides, the table of differences, and notes."""
    rows = found.differences
    columns = [
        Column("figure", [Text(fmt.plain(row.figure)) for row in rows], inf, left=True),
        Column("A", [Text(_figure(row, row.a)) for row in rows], inf),
        Column("B", [Text(_figure(row, row.b)) for row in rows], inf),
        Column(f"B {fmt.MINUS} A", [Text(_delta(row)) for row in rows], inf),
        Column("±", [Text(_error(row)) for row in rows], 5),
    ]
    fixed = [Column("variant", [Text(fmt.shorten(fmt.plain(row.variant), 32)) for row in rows], inf, left=True)]
    shown, _ = fit_to_width([""] * len(rows), fixed, columns, console_width)
    about = f"Text: {fmt.plain(found.text)}. " if found.text is not None else ""
    parts: list[RenderableType] = [
        Text(),
        Text(f"A  {fmt.plain(found.a)}\nB  {fmt.plain(found.b)}"),
        Text(f"{about}Reference: {fmt.plain(found.reference)}.", "dim"),
        Text(),
        shown,
        Text(),
        Text(
            "Nothing is paired, because the files have no items and windows: ± adds the errors of both sides, which is "
            "too much for figures over the same text. Speeds compare the machines.",
            "dim",
        ),
    ]
    return Group(*parts, *(line for note in found.notes for line in (Text(), Text(fmt.plain(note)))))


def record_lines(found: RecordComparison) -> list[str]:
    """A line for each difference, for --format quiet."""
    return [
        f"{fmt.plain(row.variant)} {fmt.plain(row.figure)}: {_figure(row, row.a)} and {_figure(row, row.b)}, "
        f"{_delta(row)}{f' ± {_error(row)}' if row.stderr is not None else ''}"
        for row in found.differences
    ]


def _decimals(row: SharedDifference) -> int:
    sizes = [value for value in (abs(row.a), abs(row.b), row.stderr or 0.0) if value]
    return fmt.decimals_for(sizes, least=4) if sizes else 4


def _figure(row: SharedDifference, value: float) -> str:
    return fmt.rate(value) if row.figure.startswith("decode") else fmt.fixed(value, _decimals(row))


def _delta(row: SharedDifference) -> str:
    return fmt.signed(row.delta, 1 if row.figure.startswith("decode") else _decimals(row))


def _error(row: SharedDifference) -> str:
    return fmt.MISSING if row.stderr is None else f"{row.stderr:.{_decimals(row)}f}"
