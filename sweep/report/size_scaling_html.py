"""The comparison of model sizes as one HTML page: loss against size at each quant, and the choice for every memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sweep import format as fmt
from sweep.analysis import figures
from sweep.analysis.pareto_sets import Losses
from sweep.analysis.plots import Axis, Point
from sweep.analysis.size_choice import SizeChoice
from sweep.analysis.size_scaling import SizeScaling, key_of
from sweep.fit.memory_limit import MemoryLimit
from sweep.report.axes import positive
from sweep.report.html import render
from sweep.report.html_tables import HtmlCell, HtmlRow, HtmlTable
from sweep.report.size_scaling import FRONTIER_TITLE
from sweep.report.size_words import (
    FrontierRow,
    SizeTable,
    choice_sentences,
    frontier_rows,
    parameters_text,
    size_tables,
)
from sweep.report.svg import ScatterPlot, scatter


@dataclass(frozen=True)
class SizePlot:
    title: str
    caption: str
    drawing: ScatterPlot


def render_sizes_page(
    scaling: SizeScaling,
    steps: Sequence[SizeChoice],
    choice: SizeChoice,
    limit: MemoryLimit,
    about: Mapping[str, object],
) -> str:
    """The whole page. `about` says how the models were measured."""
    first, *more = choice_sentences(scaling, choice, limit)
    names = ", ".join(fmt.plain(model.name) for model in scaling.models)
    return render(
        "sizes.html",
        title=f"{names}: which model and quant to run",
        above=f"{len(scaling.models)} models",
        about=about,
        chosen=choice.pick is not None,
        first=first,
        more=more,
        notes=[fmt.plain(note) for note in scaling.notes],
        by_size=_plots_by_size(scaling),
        by_memory=_plots_by_memory(scaling, steps, choice),
        tables=[(table.title, _html_table(table)) for table in size_tables(scaling)],
        frontier_title=FRONTIER_TITLE,
        frontier=_frontier_table(frontier_rows(scaling, steps)) if steps else None,
    )


# --- plots ------------------------------------------------------------------------------------------------------------


def _plots_by_size(scaling: SizeScaling) -> list[SizePlot]:
    """One line for each variant: a figure against the number of parameters."""
    if any(model.parameters is None for model in scaling.models):
        return []

    def kld(model: str, variant: str) -> float | None:
        found = scaling.kld(model, variant)
        return None if found is None or not positive(found.value) else found.value

    measures: list[tuple[str, str, Callable[[str, str], float | None], bool]] = [
        ("KL divergence", "nats per token from each model's own reference, logarithmic", kld, True)
    ]
    if scaling.texts is not None:
        measures.append(("Perplexity", "over the same tokens; lower is better", scaling.perplexity, False))
    if scaling.scores is not None:
        measures.append(("Mean score", "%, on the same items; higher is better", _percent(scaling), False))
    found = []
    for title, caption, value, log in measures:
        points = [point for group, name in enumerate(scaling.variants) for point in _line(scaling, name, group, value)]
        if points:
            axes = Axis("parameters", parameters_text, log=True), Axis("", _number, log)
            found.append(SizePlot(title, caption, scatter(points, *axes, title, joins_groups=True)))
    return found


def _percent(scaling: SizeScaling) -> Callable[[str, str], float | None]:
    def value(model: str, variant: str) -> float | None:
        score = scaling.score(model, variant)
        return None if score is None else 100 * score

    return value


def _line(scaling: SizeScaling, variant: str, group: int, value: Callable[[str, str], float | None]) -> list[Point]:
    """The points of a variant; the one of the largest model has the name."""
    found = [
        (model.parameters, y, model.name)
        for model in scaling.models
        if model.parameters is not None and (y := value(model.name, variant)) is not None
    ]
    name = fmt.plain(variant)
    return [
        Point(x, y, name if i == len(found) - 1 else "", f"{model} in {name}: {y:.4g}", group=group, pareto=True)
        for i, (x, y, model) in enumerate(found)
    ]


def _plots_by_memory(scaling: SizeScaling, steps: Sequence[SizeChoice], choice: SizeChoice) -> list[SizePlot]:
    """One line for each model: an absolute figure against the memory. The choices of the frontier are filled."""
    picks = {step.pick.key for step in steps if step.pick is not None}
    chosen = None if choice.pick is None else choice.pick.key
    needs = {
        (model.name, record.variant): need[0]
        for model in scaling.models
        for record in model.records
        if (need := figures.memory(record)) is not None
    }
    unit, scale = ("GiB", 1024.0**3) if max(needs.values(), default=0) >= 1024**3 else ("MiB", 1024.0**2)
    measures: list[tuple[str, str, Losses | None, Callable[[str, str], float | None]]] = [
        ("Mean score against memory", "%, on the same items; higher is better", scaling.scores, _percent(scaling)),
        ("Perplexity against memory", "over the same tokens; lower is better", scaling.texts, scaling.perplexity),
    ]
    groups = {model.name: i for i, model in enumerate(scaling.models)}
    found = []
    for title, caption, losses, value in measures:
        points = [
            Point(
                need / scale,
                y,
                fmt.plain(key if key in picks else variant),
                f"{fmt.plain(key)}: {y:.4g}, {fmt.size(need)}",
                group=groups[model],
                pareto=key in picks,
                chosen=key == chosen,
            )
            for (model, variant), need in needs.items()
            if losses is not None and (y := value(model, variant)) is not None and (key := key_of(model, variant))
        ]
        if points:
            axes = Axis(f"memory, {unit}", _number, log=True), Axis("", _number)
            found.append(SizePlot(title, caption, scatter(points, *axes, title, joins_groups=True)))
    return found


def _number(value: float) -> str:
    return f"{value:g}" if value == 0 or abs(value) >= 1e-5 else f"{value:.0e}"


# --- tables -----------------------------------------------------------------------------------------------------------


def _html_table(table: SizeTable) -> HtmlTable:
    rows = [HtmlRow(name, [HtmlCell(cell) for cell in cells]) for name, cells in table.rows]
    return HtmlTable([HtmlCell("Variant"), *map(HtmlCell, table.heads)], rows, narrow=True)


def _frontier_table(rows: Sequence[FrontierRow]) -> HtmlTable:
    heads = ["Run", "Score, %", "PPL", "Against", "Points (95 %)", "PPL difference (95 %)", "Shown by"]
    words = {"Run", "Against", "Shown by"}
    body = [
        HtmlRow(
            row.memory,
            [
                HtmlCell(row.pick, "from"),
                HtmlCell(row.score),
                HtmlCell(row.perplexity),
                HtmlCell(row.other, "from"),
                HtmlCell(row.points),
                HtmlCell(row.perplexity_lead),
                HtmlCell(row.shown_by, "from"),
            ],
        )
        for row in rows
    ]
    return HtmlTable(
        [HtmlCell("Memory from"), *(HtmlCell(head, "from" if head in words else "") for head in heads)],
        body,
        narrow=True,
    )
