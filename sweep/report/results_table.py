"""The results of a sweep as a table for the terminal, with as many columns as fit.

Colour is never the only mark: every coloured cell also has a sign or a word. Names and messages are printed as plain
text, never interpreted as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from os.path import commonprefix

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep import format as fmt
from sweep.analysis import figures, pareto_sets
from sweep.analysis.advice import Advice
from sweep.analysis.trust import trust_notes
from sweep.record import Record
from sweep.report.advice import render_advice
from sweep.report.columns import ERROR, RANGE, Column, fit_to_width, table, width_of
from sweep.report.figure_columns import figures_shown, task_texts, unstable_mark

_STATUS_STYLES = {"failed": "red", "partial": "yellow", "pending": "dim", "cancelled": "yellow", "skipped": "dim"}
_RECOVERY = "recovery %"
_MISSING = Text(fmt.MISSING, style="dim")


def render_table(records: Sequence[Record], console_width: int, advice: Advice | None = None) -> RenderableType:
    """For `console.print`: the tables, failures, notes, and the advice if one is given.

    If `console_width` is too narrow for one table, the tasks have a table of their own.
    """
    rows = figures.by_size(records)
    if not rows:
        return Text("No variant in this sweep.")
    tests = figures.task_tests(rows)
    chosen = advice.variant if advice else None
    pareto, pareto_measure = pareto_sets.set_for_tables(rows)
    fixed = _fixed_columns(rows, console_width, chosen, pareto)
    columns = _columns(rows)
    tasks = figures.task_names(rows)
    whole = table(
        _styles(rows),
        [*fixed, *columns, *_recovery_columns(rows, errors=True), *_task_columns(rows, tests, tasks, errors=True)],
    )
    parts: list[RenderableType] = [Text()]
    dropped: list[str] = []
    if width_of(whole) <= console_width:
        parts.append(whole)
    else:
        shown, lost = fit_to_width(_styles(rows), fixed, columns, console_width)
        dropped += lost
        parts.append(shown)
        if tasks:
            shown, lost = _fit_tasks(rows, fixed, tests, tasks, console_width)
            dropped += lost
            parts += [Text(), shown]
    parts += [
        Text(),
        *(Text(line, style="dim") for line in _legend(rows, tests, dropped, chosen, pareto, pareto_measure)),
    ]
    parts += _failures(rows)
    parts += [line for note in trust_notes(rows) for line in (Text(), Text(note))]
    if advice is not None:
        parts.append(render_advice(advice))
    return Group(*parts)


def figure_columns(records: Sequence[Record]) -> list[Column]:
    """All columns that some record has a figure for, with the records in the given order; for a table that scrolls."""
    tests, tasks = figures.task_tests(records), figures.task_names(records)
    return [
        *_columns(records),
        *_recovery_columns(records, errors=True),
        *_task_columns(records, tests, tasks, errors=True),
    ]


def _fit_tasks(
    rows: Sequence[Record],
    fixed: Sequence[Column],
    tests: dict[tuple[str, str], figures.TaskTest],
    tasks: Sequence[str],
    width: int,
) -> tuple[Table, list[str]]:
    """The table of tasks, and the headers of dropped columns. To fit the width it leaves out, in this order: the common
    prefix of the tasks' names, the errors, the mean recovery, the last tasks."""
    prefix = _common_prefix(tasks)
    every = len(tasks)
    attempts = [(True, "", True, every), (True, prefix, True, every), (False, "", True, every)]
    attempts += [(False, prefix, True, every), *((False, prefix, False, count) for count in range(every, 0, -1))]
    for errors, cut, mean, count in attempts:
        columns = _recovery_columns(rows, errors=errors) if mean else []
        columns += _task_columns(rows, tests, tasks[:count], errors=errors, prefix=cut)
        shown = table(_styles(rows), [*fixed, *columns])
        if width_of(shown) <= width:
            break
    return shown, [*([] if mean else [_RECOVERY]), *(fmt.plain(task) for task in tasks[count:])]


def _styles(rows: Sequence[Record]) -> list[str]:
    return ["dim" if record.status in fmt.UNMEASURED else "" for record in rows]


def _common_prefix(tasks: Sequence[str]) -> str:
    """The common beginning of all names up to an underscore: "micro_" for micro_sums and micro_code."""
    if len(tasks) < 2:
        return ""
    shared = commonprefix([fmt.plain(task) for task in tasks])  # noqa: RUF071 - names, not paths
    return shared[: shared.rfind("_") + 1]


def _fixed_columns(
    rows: Sequence[Record], width: int, chosen: str | None, pareto: pareto_sets.ParetoSet
) -> list[Column]:
    """The first columns of every table: sign and name."""

    def sign(record: Record) -> Text:
        first = (" ", "")
        if record.status in fmt.STATUS_SIGNS:
            first = (fmt.STATUS_SIGNS[record.status], _STATUS_STYLES[record.status])
        elif record.implausible:
            first = (fmt.IMPLAUSIBLE, "bold yellow")
        elif record.variant == chosen:
            first = (fmt.CHOSEN, "bold green")
        place = fmt.INDISTINGUISHABLE if record.variant in pareto.indistinguishable else fmt.PARETO
        return Text.assemble(first, (place if record.variant in pareto else " ", "cyan"))

    longest = max(10, min(32, width // 4))
    names = [Text(fmt.shorten(fmt.plain(r.variant), longest), "bold" if r.variant == chosen else "") for r in rows]
    return [Column("", [sign(record) for record in rows], inf, left=True), Column("variant", names, inf, left=True)]


def _columns(rows: Sequence[Record]) -> list[Column]:
    """All columns except tasks and recovery. A column is left out if no record has a figure for it."""
    columns = []
    for column in figures_shown(rows):
        values, errors = column.texts(rows)
        columns.append(Column(column.short, _cells(values), column.priority))
        if column.error_priority is not None:
            columns.append(Column(ERROR if column.spread is None else RANGE, _cells(errors), column.error_priority))
    return [column for column in columns if any(cell is not _MISSING for cell in column.cells)]


def _cells(texts: Sequence[str | None]) -> list[Text]:
    return [_MISSING if text is None else Text(text) for text in texts]


def _recovery_columns(rows: Sequence[Record], *, errors: bool) -> list[Column]:
    means = figures.mean_recovery(rows)
    if len(means) < 2:
        return []

    def cell(record: Record) -> Text:
        mean = means.get(record.variant)
        if mean is None:
            return _MISSING
        error = f" ±{100 * mean.stderr:.1f}" if errors and mean.stderr is not None else ""
        return Text(f"{100 * mean.value:.1f}{error}")

    return [Column(_RECOVERY, [cell(record) for record in rows], inf)]


def _task_columns(
    rows: Sequence[Record],
    tests: dict[tuple[str, str], figures.TaskTest],
    tasks: Sequence[str],
    *,
    errors: bool,
    prefix: str = "",
) -> list[Column]:
    """A column per task: score, paired difference (± its standard error), and a sign if it is significant."""
    scales = figures.task_scales(rows)
    columns = []
    for task in tasks:
        texts = [task_texts(record, task, scales[task]) for record in rows]
        pieces = [(score or fmt.MISSING, delta, error if errors else "") for score, delta, error in texts]
        widths = [max(len(piece[i]) for piece in pieces) for i in range(3)]
        cells = []
        for (score, delta, error), record in zip(pieces, rows, strict=True):
            # Padded here, not by the table, so that scores, differences and errors are aligned among themselves.
            mark, style = _mark(tests.get((record.variant, task)))
            cell = Text(score.rjust(widths[0]), style="dim" if score == fmt.MISSING else "")
            cell.append(f" {delta:>{widths[1]}}" if widths[1] else "", style)
            cells.append(cell.append(f" {error:<{widths[2]}}" if widths[2] else "", style).append(mark, style))
        name = fmt.shorten(fmt.plain(task).removeprefix(prefix), 18)
        columns.append(Column(name, cells, inf, left=True))
    return columns


def _mark(test: figures.TaskTest | None) -> tuple[str, str]:
    if test is not None and test.is_loss():
        return fmt.LOSS, "red"
    return (fmt.GAIN, "green") if test is not None and test.is_gain() else (" ", "")


def _legend(
    rows: Sequence[Record],
    tests: dict[tuple[str, str], figures.TaskTest],
    dropped: Sequence[str],
    chosen: str | None,
    pareto: pareto_sets.ParetoSet,
    pareto_measure: str,
) -> list[str]:
    """What the signs and columns mean that are in the tables, and which columns were dropped."""
    parts = [f"{fmt.CHOSEN} recommended"] if chosen else []
    parts += (
        [f"{fmt.PARETO} Pareto set: no variant is both smaller and better ({pareto_measure})"]
        if pareto.variants
        else []
    )
    parts += (
        [f"{fmt.INDISTINGUISHABLE} in it, but indistinguishable from the next smaller {fmt.PARETO}"]
        if pareto.indistinguishable
        else []
    )
    parts += [f"{fmt.IMPLAUSIBLE} implausible figures"] if any(record.implausible for record in rows) else []
    parts += [f"{fmt.UNSTABLE} unstable speed"] if any(unstable_mark(record) for record in rows) else []
    parts += [f"{fmt.LOSS} significant loss"] if any(test.is_loss() for test in tests.values()) else []
    parts += [f"{fmt.GAIN} significant gain"] if any(test.is_gain() for test in tests.values()) else []
    lines = [f"{'; '.join(parts)}."] if parts else []
    caches = figures.cache_words(rows)
    lines += [f"{caches}."] if caches else []
    base = figures.reference_words(rows)
    if tests:
        lines.append(
            f"Tasks: score, and difference from {base}. Significance is tested at level {figures.ALPHA:g} after Holm's "
            f"correction over all {len(tests)} tests (every variant on every task)."
        )
        lines += figures.subject_notes(rows)
    if any(r.perplexity or r.divergence for r in rows):
        lines.append("KLD: mean KL divergence in nats per token. ± is one standard error.")
    texts = dict.fromkeys(
        name for record in rows for name, own in record.other_texts.items() if own.divergence is not None
    )
    if texts:
        names = ", ".join(f"{name} KLD" for name in texts)
        lines.append(f"{names}: the same over this text. KLD alone is over the first one.")
        marks = f"{fmt.PARETO} and the plots" if pareto.variants else "The plots"
        lines.append(f"{marks} are about the first text; the advice takes the largest KLD of a variant.")
    tasks = dict.fromkeys(task for record in rows for task in record.image_divergence)
    if tasks:
        names = ", ".join(f"{fmt.plain(task)} KLD" for task in tasks)
        lines.append(
            f"{names}: the same at the tokens of right answers, after the images of the task. {RANGE} is its 95 % "
            "interval, with the answers about an image as one unit."
        )
    if len(figures.mean_recovery(rows)) > 1 and _RECOVERY not in dropped:
        lines.append(
            f"{_RECOVERY}: (score {fmt.MINUS} chance) / ({base}'s score {fmt.MINUS} chance), mean over tasks. "
            f"100 is as good as {base}."
        )
    if dropped:
        lines.append(f"Not shown at this width: {', '.join(dropped)}.")
    return lines


def _failures(rows: Sequence[Record]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for record in rows:
        if record.status == "ok" and not record.error:
            continue
        style = _STATUS_STYLES.get(record.status, "yellow")
        line = Text(f"{fmt.STATUS_SIGNS.get(record.status, '!')} {fmt.plain(record.variant)} {record.status}", style)
        lines.append(line.append(f": {fmt.plain(record.error)}" if record.error else "", ""))
    return [Text(), *lines] if lines else []
