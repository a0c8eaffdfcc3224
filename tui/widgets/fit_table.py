"""The rows of the Fit screen: a verdict with sign, word and colour, and figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rich.text import Text

from sweep import format as fmt
from sweep.analysis.candidate import FASTEST_ESTIMATE
from sweep.fit.fit_report import FitRow, Verdict, verdict
from sweep.report.fit import UNCOUNTED
from tui.state.fit_answer import FitAnswer
from tui.state.sorting import Sorting, in_order
from tui.theme import Palette
from tui.widgets.table import PADDING

SIGNS = {Verdict.FITS: "✓", Verdict.PARTLY: "◐", Verdict.DOES_NOT_FIT: "✗"}
LARGEST_FIRST = Sorting("size", down=True)
LOSS, SPEED = "KLD", "t/s"
_NAME, _VERDICT = 24, 18  # the greatest width of a variant's name, and the width of the verdict


@dataclass(frozen=True)
class _FitColumn:
    """A column of figures. Those with a high `priority` come first in a terminal that is too narrow for all."""

    head: str
    value: Callable[[FitRow], float | None]
    write: Callable[[FitRow], str]
    priority: int


def fit_rows(
    answer: FitAnswer,
    rows: Sequence[FitRow],
    chosen: Collection[str],
    width: int,
    colours: Palette,
    sorting: Sorting = LARGEST_FIRST,
) -> tuple[list[tuple[str, bool]], list[tuple[str, list[Text]]]]:
    """Heads, and the sorted rows with the variant as key. `chosen` are the variants of the planned sweep.

    If not all columns fit in `width`, the table scrolls, and the verdict and the most important columns come first.
    """
    columns, fit = _ordered(answer, width)
    value = sort_values(answer).get(sorting.head, lambda row: row.file_bytes)
    heads = [("", True), (sorting.marked("variant"), True)]
    heads += [(sorting.marked(column.head), False) for column in columns]
    heads.insert(len(heads) if fit else 2, ("verdict", True))
    found = []
    for row in in_order(rows, value, sorting.down):
        is_best, is_chosen = row.variant == answer.advised, row.variant in chosen
        sign, name, *values, words = _cells(row, columns, is_best, is_chosen, colours)
        found.append((row.variant, [sign, name, *values, words] if fit else [sign, name, words, *values]))
    return heads, found


def sort_values(answer: FitAnswer) -> dict[str, Callable[[FitRow], float | str | None]]:
    """By head of a column, the value that rows are sorted by."""
    return {"variant": lambda row: row.variant.lower(), **{column.head: column.value for column in _columns(answer)}}


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


def _columns(answer: FitAnswer) -> list[_FitColumn]:
    """The columns that have figures."""
    report = answer.report
    columns = [
        _FitColumn("bpw", lambda row: row.bits_per_weight, lambda row: f"{row.bits_per_weight:.2f}", 7),
        _FitColumn("size", lambda row: row.file_bytes, lambda row: fmt.size(row.file_bytes), 9),
        _FitColumn(LOSS, lambda row: _loss(answer, row), lambda row: _loss_words(answer, row), 10),
        _part("weights", "weights", 3),
        _part("KV", "kv", 5),
        _part("state", "recurrent", 2),
        _part("compute", "compute", 4),
        _FitColumn("total", lambda row: row.total_bytes, lambda row: fmt.size(row.total_bytes), 6),
        _FitColumn("headroom", lambda row: row.headroom_bytes, _headroom, 8),
        _contexts("max ctx", lambda row: row.max_context, 11),
        _contexts("with RAM", lambda row: row.max_context_with_ram, 8),
        _FitColumn(SPEED, lambda row: answer.speeds.get(row.variant), lambda row: _speed_words(answer, row), 12),
        _FitColumn("max t/s", lambda row: row.decode_bound, lambda row: fmt.rate(row.decode_bound), 1),
    ]
    always = {"weights", "KV", "compute"}
    return [column for column in columns if column.head in always or any(map(column.value, report.rows))]


def _ordered(answer: FitAnswer, width: int) -> tuple[list[_FitColumn], bool]:
    """The columns, and whether they all fit the width; if not, the most important ones first."""
    shown, rows = _columns(answer), answer.report.rows
    names = max((min(len(row.variant), _NAME) for row in rows), default=0)
    fixed_width = 2 + max(names, len("variant ↓")) + _VERDICT + 6 * PADDING
    fit = fixed_width + sum(_width(column, rows) for column in shown) <= width
    return shown if fit else sorted(shown, key=lambda column: -column.priority), fit


def _width(column: _FitColumn, rows: Sequence[FitRow]) -> int:
    """The width, with room for the arrow that marks the sorted column."""
    return max(len(column.head) + 2, *(len(column.write(row)) for row in rows), 1) + 2 * PADDING


def _contexts(head: str, context: Callable[[FitRow], int | None], priority: int) -> _FitColumn:
    return _FitColumn(head, context, lambda row: f"{found:,}" if (found := context(row)) else fmt.MISSING, priority)


def _part(head: str, name: str, priority: int) -> _FitColumn:
    def value(row: FitRow) -> float | None:
        return row.figures[name].bytes if name in row.figures else None

    return _FitColumn(
        head, value, lambda row: fmt.size(row.figures[name].bytes) if name in row.figures else fmt.MISSING, priority
    )


def _headroom(row: FitRow) -> str:
    return f"{'+' if row.headroom_bytes >= 0 else fmt.MINUS}{fmt.size(abs(row.headroom_bytes))}"


def _loss(answer: FitAnswer, row: FitRow) -> float | None:
    found = answer.losses.get(row.variant)
    return None if found is None else found.value


def _loss_words(answer: FitAnswer, row: FitRow) -> str:
    """The divergence; ~ marks one that is expected."""
    found = answer.losses.get(row.variant)
    return fmt.MISSING if found is None else f"{'~' if found.source == 'prior' else ''}{fmt.small(found.value)}"


def _speed_words(answer: FitAnswer, row: FitRow) -> str:
    """Tokens per second, but no estimate of more than what the time between tokens allows."""
    found = answer.speeds.get(row.variant)
    return f">{FASTEST_ESTIMATE}" if found is not None and found > FASTEST_ESTIMATE else fmt.rate(found)
