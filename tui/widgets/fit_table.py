"""The rows of the Fit screen: a verdict with sign, word and colour, and as many figures as fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rich.text import Text

from sweep import format as fmt
from sweep.fit.fit_report import FitReport, FitRow, Verdict, verdict
from sweep.report.fit import UNCOUNTED
from tui.theme import Palette
from tui.widgets.table import PADDING

SIGNS = {Verdict.FITS: "✓", Verdict.PARTLY: "◐", Verdict.DOES_NOT_FIT: "✗"}
_NAME, _VERDICT = 24, 18  # the greatest width of a variant's name, and the width of the verdict


@dataclass(frozen=True)
class _FitColumn:
    """A column of figures. The higher its `priority`, the later it is dropped in a narrow terminal."""

    head: str
    write: Callable[[FitRow], str]
    priority: int


def fit_rows(
    report: FitReport, rows: Sequence[FitRow], best: str | None, chosen: Collection[str], width: int, colours: Palette
) -> tuple[list[tuple[str, bool]], list[tuple[str, list[Text]]]]:
    """Heads, and rows with the variant as key. `chosen` are the variants of the planned sweep."""
    columns = _fitting(report, width)
    heads = [("", True), ("variant", True), *((column.head, False) for column in columns), ("verdict", True)]
    return heads, [
        (row.variant, _cells(row, columns, row.variant == best, row.variant in chosen, colours)) for row in rows
    ]


def _cells(row: FitRow, columns: Sequence[_FitColumn], is_best: bool, is_chosen: bool, colours: Palette) -> list[Text]:
    found = verdict(row)
    style = {Verdict.FITS: colours.good, Verdict.PARTLY: colours.warn, Verdict.DOES_NOT_FIT: colours.bad}[found]
    plain = colours.soft if found is Verdict.DOES_NOT_FIT else colours.ink
    host = row.shares[-1].total_bytes if row.shares else 0
    partly = f"{fmt.size(host)} in RAM"
    words = {Verdict.FITS: "fits", Verdict.PARTLY: partly, Verdict.DOES_NOT_FIT: "does not fit"}[found]
    return [
        Text.assemble((fmt.CHOSEN if is_best else " ", colours.good), ("+" if is_chosen else " ", colours.accent)),
        Text(fmt.shorten(fmt.plain(row.variant), _NAME), plain),
        *(Text(column.write(row), plain) for column in columns),
        Text(f"{SIGNS[found]} {words}{UNCOUNTED if row.mtp_bytes else ''}", style),
    ]


def _fitting(report: FitReport, width: int) -> list[_FitColumn]:
    """The columns that have figures and fit the width, dropped by priority."""
    columns = [
        _FitColumn("bpw", lambda row: f"{row.bits_per_weight:.2f}", 8),
        _FitColumn("file", lambda row: fmt.size(row.file_bytes), 7),
        _FitColumn("weights", _part("weights"), 3),
        _FitColumn("KV", _part("kv"), 5),
        _FitColumn("state", _part("recurrent"), 2),
        _FitColumn("compute", _part("compute"), 4),
        _FitColumn("total", lambda row: fmt.size(row.total_bytes), 6),
        _FitColumn("headroom", _headroom, 9),
        _FitColumn("max ctx", lambda row: f"{row.max_context:,}" if row.max_context else fmt.MISSING, 10),
        _FitColumn("max t/s", lambda row: fmt.rate(row.decode_bound), 1),
    ]
    absent = set()
    if not any(row.figures["recurrent"].bytes for row in report.rows if "recurrent" in row.figures):
        absent.add("state")
    if not any(row.decode_bound for row in report.rows):
        absent.add("max t/s")
    shown = [column for column in columns if column.head not in absent]
    names = max((min(len(row.variant), _NAME) for row in report.rows), default=0)
    fixed_width = 2 + names + _VERDICT + 6 * PADDING
    while shown and fixed_width + sum(_width(column, report) for column in shown) > width:
        shown.remove(min(shown, key=lambda column: column.priority))
    return shown


def _width(column: _FitColumn, report: FitReport) -> int:
    return max(len(column.head), *(len(column.write(row)) for row in report.rows), 1) + 2 * PADDING


def _part(name: str) -> Callable[[FitRow], str]:
    return lambda row: fmt.size(row.figures[name].bytes) if name in row.figures else fmt.MISSING


def _headroom(row: FitRow) -> str:
    return f"{'+' if row.headroom_bytes >= 0 else fmt.MINUS}{fmt.size(abs(row.headroom_bytes))}"
