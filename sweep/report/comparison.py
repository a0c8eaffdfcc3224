"""A comparison of two runs for the terminal: every difference with its interval, and which are significant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.differences import Comparison, LossDifference, TaskDifference, TextDifference
from sweep.report.columns import Column, fit_to_width
from sweep.statistics import ALPHA, PairedDifference

_Difference = TaskDifference | LossDifference | TextDifference
_MINUS = f"B {fmt.MINUS} A"
_FIGURES = {"perplexity": "perplexity", "divergence": "KL divergence"}


def render_comparison(found: Comparison, console_width: int) -> RenderableType:
    """For `console.print`: the two sides, a table for each kind of difference, notes, and the verdicts."""
    parts: list[RenderableType] = [Text(), *_heads(found)]
    dropped: list[str] = []
    for title, rows, columns in (
        (f"Tasks: {_MINUS}, over the items that both answered", found.tasks, _task_columns(found.tasks)),
        (f"Losses: variant {fmt.MINUS} its own baseline, in A and in B", found.losses, _loss_columns(found.losses)),
        (f"Text: {_MINUS}, over the same windows", found.text, _text_columns(found.text)),
    ):
        if rows:
            shown, lost = fit_to_width([""] * len(rows), _fixed_columns(rows), columns, console_width)
            parts += [Text(), Text(title, "bold"), shown]
            dropped += [name for name in lost if name not in dropped]
    parts += [Text(), *(Text(line, style="dim") for line in _legend(found, dropped))]
    parts += [line for note in found.notes for line in (Text(), Text(fmt.plain(note)))]
    parts += [line for verdict in verdicts(found) for line in (Text(), Text(verdict, "bold"))]
    return Group(*parts)


def _heads(found: Comparison) -> list[Text]:
    sides = [("A", found.a), ("B", found.b)]
    rows: list[_Difference] = [*found.tasks, *found.losses, *found.text]
    pairs = list(dict.fromkeys((row.variant_a, row.variant_b) for row in rows))
    alone = pairs[0] if len(pairs) == 1 else None
    longest = max(len(fmt.plain(side.run)) for _, side in sides)
    return [
        Text(f"{name}  {fmt.plain(side.run):<{longest}}  {fmt.plain(side.model)}")
        + Text(f", {fmt.plain(alone[i])}" if alone else "", "bold")
        + Text(f" (baseline {fmt.plain(side.reference)})", "dim")
        for i, (name, side) in enumerate(sides)
    ]


def _variants(row: _Difference) -> str:
    names = dict.fromkeys((row.variant_a, row.variant_b))
    return " and ".join(fmt.shorten(fmt.plain(name), 24) for name in names)


def _fixed_columns(rows: Sequence[_Difference]) -> list[Column]:
    """The first columns: the verdict's sign, and the variant if there are several."""
    fixed = [Column("", [_sign(row) for row in rows], inf, left=True)]
    names = [_variants(row) for row in rows]
    if len(set(names)) > 1:
        fixed.append(Column("variant", [Text(name) for name in names], inf, left=True))
    return fixed


def _sign(row: _Difference) -> Text:
    if not row.significant:
        return Text(fmt.NO_DIFFERENCE, "dim")
    return Text(fmt.GAIN, "green") if row.better else Text(fmt.LOSS, "red")


def _scale(row: TaskDifference | LossDifference, shares: set[str]) -> tuple[int, int]:
    """The factor and the number of decimals for a task: percent if its scores are shares."""
    return (100, 1) if row.task in shares else (1, 3)


def _shares(rows: Sequence[TaskDifference]) -> set[str]:
    """The tasks whose scores are all shares between 0 and 1."""
    other = {
        row.task for row in rows if not (row.higher_is_better and 0.0 <= min(row.a, row.b) <= max(row.a, row.b) <= 1.0)
    }
    return {row.task for row in rows} - other


def _task_columns(rows: Sequence[TaskDifference]) -> list[Column]:
    shares = _shares(rows)

    def cells(write: Callable[[TaskDifference, int, int], str]) -> list[Text]:
        return [Text(write(row, *_scale(row, shares))) for row in rows]

    columns = [
        Column("task", [Text(fmt.shorten(fmt.plain(row.task), 22)) for row in rows], inf, left=True),
        Column("A", cells(lambda row, scale, digits: fmt.fixed(row.a * scale, digits)), 6),
        Column("B", cells(lambda row, scale, digits: fmt.fixed(row.b * scale, digits)), 7),
        *_difference_columns(rows, [_scale(row, shares) for row in rows]),
        Column("flips %", [Text(f"{100 * row.flips:.1f}") for row in rows], 4),
        Column("answers changed %", [Text(_percent(row.answers_changed)) for row in rows], 3),
        Column("items", [Text(f"{row.difference.n:,}") for row in rows], 5),
    ]
    if any(row.gold for row in rows):
        gold = [Text(_with_error(row.gold)) if row.gold else Text(fmt.MISSING, "dim") for row in rows]
        columns.append(Column("p(correct choice) %", gold, 2))
    return columns


def _percent(share: float | None) -> str:
    return fmt.MISSING if share is None else f"{100 * share:.1f}"


def _with_error(found: PairedDifference, scale: int = 100, digits: int = 1) -> str:
    return f"{fmt.signed(found.delta * scale, digits)} ±{found.stderr * scale:.{digits}f}"


def _loss_columns(rows: Sequence[LossDifference]) -> list[Column]:
    own = [max(abs(value) for value in (row.a.delta, row.b.delta)) for row in rows]
    shares = {row.task for row, size in zip(rows, own, strict=True) if row.higher_is_better and size <= 1.0}
    return [
        Column("task", [Text(fmt.shorten(fmt.plain(row.task), 22)) for row in rows], inf, left=True),
        Column("A", [Text(_with_error(row.a, *_scale(row, shares))) for row in rows], 6),
        Column("B", [Text(_with_error(row.b, *_scale(row, shares))) for row in rows], 7),
        *_difference_columns(rows, [_scale(row, shares) for row in rows]),
        Column("items", [Text(f"{row.difference.n:,}") for row in rows], 5),
    ]


def _text_columns(rows: Sequence[TextDifference]) -> list[Column]:
    digits = fmt.decimals_for([row.difference.stderr for row in rows], least=4)
    figures = fmt.decimals_for([min(row.a, row.b) for row in rows if row.figure == "divergence"], least=4)
    return [
        Column("figure", [Text(_figure_name(row)) for row in rows], inf, left=True),
        Column("A", [Text(fmt.fixed(row.a, figures)) for row in rows], 6),
        Column("B", [Text(fmt.fixed(row.b, figures)) for row in rows], 7),
        *_difference_columns(rows, [(1, digits)] * len(rows), f"{_MINUS}, nats"),
        Column("windows", [Text(f"{row.difference.n:,}") for row in rows], 5),
    ]


def _figure_name(row: TextDifference) -> str:
    """The figure, with its text if there are several."""
    return f"{_FIGURES[row.figure]}{f', {fmt.shorten(fmt.plain(row.text), 24)}' if row.text else ''}"


def _difference_columns(
    rows: Sequence[_Difference], scales: Sequence[tuple[int, int]], head: str = _MINUS
) -> list[Column]:
    """The difference, its interval, and p before and after Holm's correction."""
    found = [(row, row.difference, *scale) for row, scale in zip(rows, scales, strict=True)]
    deltas = [Text(fmt.signed(d.delta * by, digits), "" if row.significant else "dim") for row, d, by, digits in found]
    intervals = [Text(fmt.interval(d.low * by, d.high * by, digits)) for _, d, by, digits in found]
    return [
        Column(head, deltas, inf),
        Column("95 % interval", intervals, 9),
        Column("p", [Text(fmt.p_value(row.difference.p_value)) for row in rows], 1),
        Column("Holm p", [Text(fmt.p_value(row.p_holm)) for row in rows], 8),
    ]


def _legend(found: Comparison, dropped: Sequence[str]) -> list[str]:
    rows: list[_Difference] = [*found.tasks, *found.losses, *found.text]
    signs = [f"{fmt.GAIN} B is better"] if any(row.significant and row.better for row in rows) else []
    signs += [f"{fmt.LOSS} B is worse"] if any(row.significant and not row.better for row in rows) else []
    signs += [f"{fmt.NO_DIFFERENCE} no significant difference"] if any(not row.significant for row in rows) else []
    families = [
        f"{len(family)} {one if len(family) == 1 else many}"
        for family, one, many in (
            (found.tasks, "task", "tasks"),
            (found.losses, "loss", "losses"),
            (found.text, "text", "texts"),
        )
        if family
    ]
    lines = [
        f"{'; '.join(signs)}. Significance is tested at level {ALPHA:g} after Holm's correction over each table "
        f"({', '.join(families)})."
    ]
    if found.tasks:
        lines.append(
            f"Scores that are shares are in percent. {_tests(found)} "
            "The 95 % intervals are not corrected for the number of tests."
        )
        for kind in dict.fromkeys(row.cluster_kind for row in found.tasks if row.difference.clusters):
            every = (row.difference.clusters for row in found.tasks if row.cluster_kind == kind)
            numbers = sorted({count for count in every if count})
            lines.append(
                f"In tasks with {' or '.join(map(str, numbers))} {kind}, "
                f"errors and p treat whole {kind}, not items, as independent."
            )
    for name, of in (("A", "only_a"), ("B", "only_b")):
        alone = {row.task: getattr(row, of) for row in found.tasks if getattr(row, of)}
        if alone:
            counts = ", ".join(f"{fmt.plain(task)} {count:,}" for task, count in alone.items())
            lines.append(f"Items left out because only {name} has them: {counts}.")
    reworded = {
        row.task: f"{fmt.plain(row.task)} {row.reworded:,} of {row.difference.n:,}"
        for row in found.tasks
        if row.reworded
    }
    if reworded:
        lines.append(
            f"Items with the same document but another prompt, paired by document: {', '.join(reworded.values())}."
        )
    if found.text:
        lines.append(f"Text: ln(PPL B / PPL A) and KLD B {fmt.MINUS} KLD A in nats per token, by window.")
    if dropped:
        lines.append(f"Not shown at this width: {', '.join(dropped)}.")
    return lines


def _tests(found: Comparison) -> str:
    losses = "; for losses, from its generalization to other whole numbers (sign flips)" if found.losses else ""
    return f"p is from the exact McNemar test{losses}."


def verdicts(found: Comparison) -> list[str]:
    """A sentence for each table: how many of its differences are significant, and which."""
    none = ": these items show no change in how B compares with A from the baselines to the variants"
    standing, cost = ("B is better", "B is worse"), ("B loses less", "B loses more")
    families: list[tuple[Sequence[_Difference], str, str, tuple[str, str], str]] = [
        (found.tasks, "task difference", "task differences", standing, ""),
        (found.losses, "difference of losses", "differences of losses", cost, none),
        (found.text, "text difference", "text differences", standing, ""),
    ]
    sentences = []
    for rows, one, many, words, otherwise in families:
        if not rows:
            continue
        significant = [row for row in rows if row.significant]
        sides = zip(
            words, ([r for r in significant if r.better], [r for r in significant if not r.better]), strict=True
        )
        count = len({_variants(row) for row in rows})
        which = "; ".join(f"{word} on {_listed(part, count)}" for word, part in sides if part)
        noun, verb = one if len(rows) == 1 else many, "is" if 1 in (len(significant), len(rows)) else "are"
        share = f"{len(significant)} of {len(rows)} {noun} {verb} significant"
        sentences.append(f"{share}{f': {which}' if which else otherwise}.")
    return sentences


def _listed(rows: Sequence[_Difference], n_variants: int) -> str:
    """Tasks or figures, each with its variants if several are compared; a long list of variants is only counted."""
    by_name: dict[str, list[str]] = {}
    for row in rows:
        name = _figure_name(row) if isinstance(row, TextDifference) else fmt.plain(row.task)
        by_name.setdefault(name, []).append(_variants(row))
    parts = []
    for name, variants in by_name.items():
        which = ", ".join(variants) if len(variants) <= 3 else f"{len(variants)} of {n_variants} variants"
        parts.append(f"{name} ({which})" if n_variants > 1 else name)
    return ", ".join(parts)
