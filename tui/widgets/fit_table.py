"""The rows of a fit: verdict by sign, word and colour, and as many figures as the width holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rich.text import Text

from sweep import format as fmt
from sweep.fit.fit_report import FitReport, FitRow, Verdict, verdict
from tui.theme import Palette
from tui.widgets.table import PADDING

SIGNS = {Verdict.FITS: "✓", Verdict.PARTLY: "◐", Verdict.MISSES: "✗"}
_NAME, _VERDICT = 24, 18  # columns that a variant's name may take, and that a verdict does


@dataclass(frozen=True)
class _Column:
    """The higher `priority`, the longer it stays when the terminal gets narrow."""

    head: str
    write: Callable[[FitRow], str]
    priority: int


def fit_rows(
    report: FitReport, rows: Sequence[FitRow], best: str | None, taken: Collection[str], width: int, colours: Palette
) -> tuple[list[tuple[str, bool]], list[tuple[str, list[Text]]]]:
    """Heads, and rows keyed by variant; `taken` are the variants of the sweep that is planned."""
    columns = _fitting(report, width)
    heads = [("", True), ("variant", True), *((column.head, False) for column in columns), ("verdict", True)]
    return heads, [
        (row.variant, _cells(row, columns, row.variant == best, row.variant in taken, colours)) for row in rows
    ]


def _cells(row: FitRow, columns: Sequence[_Column], is_best: bool, is_taken: bool, colours: Palette) -> list[Text]:
    found = verdict(row)
    style = {Verdict.FITS: colours.good, Verdict.PARTLY: colours.warn, Verdict.MISSES: colours.bad}[found]
    plain = colours.soft if found is Verdict.MISSES else colours.ink
    host = row.shares[-1].total_bytes if row.shares else 0
    words = {Verdict.FITS: "fits", Verdict.PARTLY: f"{fmt.size(host)} in RAM", Verdict.MISSES: "does not fit"}[found]
    return [
        Text.assemble((fmt.CHOSEN if is_best else " ", colours.good), ("+" if is_taken else " ", colours.accent)),
        Text(fmt.shorten(fmt.plain(row.variant), _NAME), plain),
        *(Text(column.write(row), plain) for column in columns),
        Text(f"{SIGNS[found]} {words}", style),
    ]


def _fitting(report: FitReport, width: int) -> list[_Column]:
    """The columns that there are figures for, without the least telling where the width has no room."""
    known = [
        _Column("bpw", lambda row: f"{row.bits_per_weight:.2f}", 8),
        _Column("file", lambda row: fmt.size(row.file_bytes), 7),
        _Column("weights", _part("weights"), 3),
        _Column("KV", _part("kv"), 5),
        _Column("state", _part("recurrent"), 2),
        _Column("compute", _part("compute"), 4),
        _Column("total", lambda row: fmt.size(row.total_bytes), 6),
        _Column("headroom", _headroom, 9),
        _Column("max ctx", lambda row: f"{row.max_context:,}" if row.max_context else fmt.MISSING, 10),
        _Column("max t/s", lambda row: fmt.rate(row.decode_bound), 1),
    ]
    absent = set()
    if not any(row.figures["recurrent"].bytes for row in report.rows if "recurrent" in row.figures):
        absent.add("state")
    if not any(row.decode_bound for row in report.rows):
        absent.add("max t/s")
    kept = [column for column in known if column.head not in absent]
    names = max((min(len(row.variant), _NAME) for row in report.rows), default=0)
    lead = 2 + names + _VERDICT + 6 * PADDING
    while kept and lead + sum(_width(column, report) for column in kept) > width:
        kept.remove(min(kept, key=lambda column: column.priority))
    return kept


def _width(column: _Column, report: FitReport) -> int:
    return max(len(column.head), *(len(column.write(row)) for row in report.rows), 1) + 2 * PADDING


def _part(name: str) -> Callable[[FitRow], str]:
    return lambda row: fmt.size(row.figures[name].bytes) if name in row.figures else fmt.MISSING


def _headroom(row: FitRow) -> str:
    return f"{'+' if row.headroom_bytes >= 0 else fmt.MINUS}{fmt.size(abs(row.headroom_bytes))}"
