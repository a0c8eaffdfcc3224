"""The comparison with records of another machine, in the terminal."""

from __future__ import annotations

from math import inf

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.record_differences import RecordComparison, SharedDifference
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
        *([Column("p", [Text(_p_value(row)) for row in rows], 4)] if any(row.paired for row in rows) else []),
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
        Text(f"{_how(found)} Speeds compare the machines.", "dim"),
    ]
    return Group(*parts, *(line for note in found.notes for line in (Text(), Text(fmt.plain(note)))))


def _how(found: RecordComparison) -> str:
    """Which differences are paired."""
    alone = [row for row in found.differences if row.paired is None and not row.figure.startswith("decode")]
    some = any(row.paired for row in found.differences)
    paired = (
        "Differences with a p are paired by window or item: ± is the error of the difference, and p is not corrected "
        "for the number of tests."
    )
    which = ", ".join(dict.fromkeys(fmt.plain(row.figure) for row in alone)) if some else "Nothing"
    unpaired = (
        f"{which} {'is not' if some else 'is'} paired, because one side has no values of its windows or items, or "
        "others: ± adds the errors of both sides, which is too much for figures over the same text."
    )
    return " ".join([paired] * some + [unpaired] * bool(alone))


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


def _p_value(row: SharedDifference) -> str:
    return fmt.MISSING if row.paired is None else fmt.p_value(row.paired.p_value)


def _error(row: SharedDifference) -> str:
    return fmt.MISSING if row.stderr is None else f"{row.stderr:.{_decimals(row)}f}"
