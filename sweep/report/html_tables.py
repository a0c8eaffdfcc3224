"""The tables of the HTML report: size and fidelity, tasks, all differences, accuracy per bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep import format as fmt
from sweep.analysis import figures, pareto_sets
from sweep.record import Record, TaskScore
from sweep.report.figure_columns import figures_shown, task_texts
from sweep.statistics import HALF_INTERVAL

Tests = Mapping[tuple[str, str], figures.TaskTest]  # by variant and task


@dataclass(frozen=True)
class HtmlCell:
    """A cell. `text` is None for a missing figure, `kind` a class of the stylesheet, `title` the text on hover."""

    text: str | None = ""
    kind: str = ""
    title: str = ""
    span: int = 1


@dataclass(frozen=True)
class HtmlRow:
    name: str
    cells: Sequence[HtmlCell]
    sign: HtmlCell | None = None  # before the name
    kind: str = ""


@dataclass(frozen=True)
class HtmlTable:
    heads: Sequence[HtmlCell]
    rows: Sequence[HtmlRow]
    narrow: bool = False  # only as wide as its cells need, not as wide as the page


@dataclass(frozen=True)
class _HtmlColumn:
    """A head over the same number of cells in every row."""

    head: str
    cells: Sequence[Sequence[HtmlCell]]


def fidelity_table(rows: Sequence[Record], chosen: str | None, pareto: pareto_sets.ParetoSet) -> HtmlTable | None:
    if not rows:
        return None
    columns = []
    for column in figures_shown(rows):
        values, errors = column.texts(rows)
        cells = [[HtmlCell(value)] for value in values]
        if column.error_priority is not None:
            for row, error in zip(cells, errors, strict=True):
                row.append(HtmlCell("" if error is None else column.with_sign(error), "err"))
        if any(value is not None for value in values):
            columns.append(_HtmlColumn(column.head, cells))
    return _table(rows, columns, chosen, pareto)


def tasks_table(
    rows: Sequence[Record], tests: Tests, chosen: str | None, pareto: pareto_sets.ParetoSet
) -> HtmlTable | None:
    tasks = figures.task_names(rows)
    if not tasks:
        return None
    means, scales = figures.mean_recovery(rows), figures.task_scales(rows)
    columns = []
    if len(means) > 1:
        columns.append(_HtmlColumn("Mean recovery, %", [_recovery(means.get(record.variant)) for record in rows]))
    for task in tasks:
        cells = [_task_cells(record, task, tests.get((record.variant, task)), scales[task]) for record in rows]
        columns.append(_HtmlColumn(task + (", %" if scales[task] == 100 else ""), cells))
    return _table(rows, columns, chosen, pareto)


def texts_table(rows: Sequence[Record]) -> HtmlTable | None:
    """The divergence over the first text next to the largest, which the advice counts, and what that one is over. None
    if every variant has one divergence only."""
    found = {record.variant: figures.largest_kld(record) for record in rows if figures.has_several_klds(record)}
    body = []
    for record in rows:
        first, largest = figures.kld(record), found.get(record.variant)
        if first is None or largest is None:
            continue
        worst, tokens = largest
        ratio = f"{worst.value / first.value:.2f}" if first.value > 0 else None
        cells = [HtmlCell(fmt.small(first.value)), HtmlCell(fmt.small(worst.value)), HtmlCell(ratio)]
        body.append(HtmlRow(record.variant, [*cells, HtmlCell(tokens or "the first text", "from")]))
    names = {record.text.name for record in rows if record.text is not None}
    heads = [f"KLD over {min(names)}" if len(names) == 1 else "KLD over the first text", "Largest KLD", "Ratio"]
    columns = [HtmlCell("Variant"), *map(HtmlCell, heads), HtmlCell("Largest over", "from")]
    return HtmlTable(columns, body, narrow=True) if body else None


def differences_table(rows: Sequence[Record], tests: Tests) -> HtmlTable | None:
    """All differences with intervals, p before and after Holm's correction, flips, and changed answers."""
    if not tests:
        return None
    named, scales = {record.variant: record for record in rows}, figures.task_scales(rows)
    has_gold = any(named[variant].tasks[task].gold_delta is not None for variant, task in tests)
    heads = ["Difference", "95 % interval", "p", "Holm p", "Flips, %", "Answers changed, %", "Items"]
    heads += ["Probability of the correct choice, points"] if has_gold else []
    return HtmlTable(
        [HtmlCell("Variant"), HtmlCell("Task", "from"), *map(HtmlCell, heads)],
        [
            HtmlRow(variant, _detail(named[variant], test, scales[task], has_gold=has_gold))
            for (variant, task), test in tests.items()
        ],
        narrow=True,
    )


def per_bit_table(rows: Sequence[Record]) -> HtmlTable | None:
    """The recovery of every variant, with its gain per bit or, outside the Pareto set, the better smaller variant."""
    means = figures.mean_recovery(rows)
    steps = {gain.larger: gain for gain in pareto_sets.gains(rows)}
    shown = [
        record for record in rows if record.variant in means and figures.finite(record.bits_per_weight) is not None
    ]
    if len(shown) < 2:
        return None
    losses = pareto_sets.per_reference(pareto_sets.recovery_losses, rows)
    pareto = pareto_sets.pareto_set(rows, lambda record: record.bits_per_weight, losses)
    body = []
    for record in shown:
        mean, gain = means[record.variant], steps.get(record.variant)
        step = [HtmlCell()] * 3
        if gain is not None:
            within_error = gain.stderr is not None and abs(gain.per_bit) < HALF_INTERVAL * gain.stderr
            within_error = within_error if gain.significant is None else not gain.significant
            step = [
                HtmlCell(fmt.signed(100 * gain.per_bit, 2)),
                HtmlCell("" if gain.stderr is None else f"±{100 * gain.stderr:.2f}", "err"),
                HtmlCell(f"from {gain.smaller}{' (indistinguishable)' if within_error else ''}", "from"),
            ]
        elif record.variant not in pareto:
            own = next(found for found in losses if record.variant in found.values)
            others = [other for other in shown if other.variant in own.values]
            step = [HtmlCell(_better_smaller(record, others, own), "from", span=3)]
        sign = (
            fmt.INDISTINGUISHABLE
            if record.variant in pareto.indistinguishable
            else fmt.PARETO
            if record.variant in pareto
            else ""
        )
        cells = [HtmlCell(f"{record.bits_per_weight:.2f}"), *_recovery(mean), *step]
        body.append(HtmlRow(record.variant, cells, HtmlCell(sign)))
    heads = [HtmlCell("Bits/weight"), HtmlCell("Recovery, %", span=2), HtmlCell("Gain per extra bit", span=2)]
    return HtmlTable([HtmlCell("Variant"), *heads, HtmlCell()], body, narrow=True)


def _recovery(mean: figures.Figure | None) -> list[HtmlCell]:
    """A recovery in percent, and its error."""
    if mean is None:
        return [HtmlCell(None), HtmlCell(kind="err")]
    error = "" if mean.stderr is None else f"±{100 * mean.stderr:.1f}"
    return [HtmlCell(fmt.fixed(100 * mean.value, 1)), HtmlCell(error, "err")]


def _better_smaller(record: Record, rows: Sequence[Record], losses: pareto_sets.Losses) -> str:
    """For a variant outside the Pareto set: the best smaller variant, and whether its lead is significant."""
    bits = record.bits_per_weight or 0.0
    smaller = [r for r in rows if (r.bits_per_weight or 0.0) <= bits and r.variant != record.variant]
    best = min(smaller, key=lambda r: losses.values[r.variant])
    lead = losses.lead(best.variant, record.variant)
    if lead is None:
        return f"no better than {best.variant}"
    return f"{'worse than' if lead.significant else 'indistinguishable from'} {best.variant}, which is smaller"


def _table(
    rows: Sequence[Record], columns: Sequence[_HtmlColumn], chosen: str | None, pareto: pareto_sets.ParetoSet
) -> HtmlTable:
    heads = [HtmlCell(column.head, span=len(column.cells[0])) for column in columns]
    body = []
    for i, record in enumerate(rows):
        kind = "chosen" if record.variant == chosen else "off" if record.status in fmt.UNMEASURED else ""
        cells = [cell for column in columns for cell in column.cells[i]]
        body.append(HtmlRow(record.variant, cells, _sign(record, pareto, chosen), kind))
    return HtmlTable([HtmlCell("Variant"), *heads], body)


def _sign(record: Record, pareto: pareto_sets.ParetoSet, chosen: str | None) -> HtmlCell:
    if record.status in fmt.STATUS_SIGNS:
        return HtmlCell(fmt.STATUS_SIGNS[record.status], record.status, record.status)
    if record.implausible:
        return HtmlCell(fmt.IMPLAUSIBLE, "partial", f"implausible: {'; '.join(record.implausible)}")
    if record.variant == chosen:
        return HtmlCell(fmt.CHOSEN, title="recommended")
    if record.variant in pareto.indistinguishable:
        return HtmlCell(fmt.INDISTINGUISHABLE, title=pareto_sets.why_indistinguishable(record, pareto))
    return HtmlCell(fmt.PARETO, title="in the Pareto set") if record.variant in pareto else HtmlCell()


def _detail(record: Record, test: figures.TaskTest, scale: int, *, has_gold: bool) -> list[HtmlCell]:
    score, part = record.tasks[test.task], record.stopping.get(test.task)
    decimals = 1 if scale == 100 else 3
    kind, bound = _kind(test), "≤ " if test.is_bound else ""
    interval = None if test.interval is None else fmt.interval(*test.interval, decimals, scale)
    cells = [
        HtmlCell(test.task, "from"),
        HtmlCell(fmt.signed(test.delta * scale, decimals), kind),
        HtmlCell(interval),
        HtmlCell(bound + fmt.p_value(test.p_value)),
        HtmlCell(bound + fmt.p_value(test.adjusted), kind),
        HtmlCell(None if score.flips is None else f"{100 * score.flips:.1f}"),
        HtmlCell(None if score.answers_changed is None else f"{100 * score.answers_changed:.1f}"),
        HtmlCell(
            f"{score.n:,}"
            + (f" of {part.of:,}" if test.is_bound and part else "")
            + (f" in {score.clusters:,} {score.cluster_kind}" if score.clusters else "")
        ),
    ]
    if has_gold:
        delta, stderr = figures.finite(score.gold_delta), figures.finite(score.gold_delta_stderr)
        cells.append(
            HtmlCell(None if delta is None or stderr is None else f"{fmt.signed(100 * delta, 2)} ±{100 * stderr:.2f}")
        )
    return cells


def _task_cells(record: Record, task: str, test: figures.TaskTest | None, scale: int) -> list[HtmlCell]:
    """The score, its difference, the error of the difference, and a sign if it is significant."""
    score, delta, error = task_texts(record, task, scale)
    kind = _kind(test)
    title = "" if test is None or score is None else _in_words(record.tasks[task], test, scale)
    return [
        HtmlCell(score),
        HtmlCell(delta, f"delta {kind}".strip(), title),
        HtmlCell(error, "err"),
        HtmlCell({"loss": fmt.LOSS, "gain": fmt.GAIN}.get(kind, ""), f"mark {kind}".strip()),
    ]


def _kind(test: figures.TaskTest | None) -> str:
    return "" if test is None else "loss" if test.is_loss() else "gain" if test.is_gain() else ""


def _in_words(score: TaskScore, test: figures.TaskTest, scale: int) -> str:
    """A difference in words: its interval, its corrected p, and the share of changed answers."""
    parts = []
    if test.interval is not None:
        parts.append(f"95 % interval {fmt.interval(*test.interval, 1 if scale == 100 else 3, scale)}")
    parts.append(f"Holm-corrected p {test.p_relation}")
    if score.answers_changed is not None:
        parts.append(f"{100 * score.answers_changed:.1f} % of answers changed")
    verdict = {"loss": "a significant loss", "gain": "a significant gain"}.get(_kind(test), "not significant")
    return f"{verdict}: {', '.join(parts)}"
