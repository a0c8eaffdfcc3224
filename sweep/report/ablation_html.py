"""An ablation as one HTML file: heat maps of every grid by perplexity and by divergence, and a table of all recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from int8.design_space import Grid, Setup
from sweep import format as fmt
from sweep.analysis.ablation import Ablation, RecipePoint, least
from sweep.analysis.setup_words import name_of, settings_of
from sweep.report import heatmap
from sweep.report.ablation import figures, legend, sign, varying
from sweep.report.html import render
from sweep.report.html_tables import HtmlCell, HtmlRow, HtmlTable


def render_page(found: Ablation) -> str:
    """The whole page."""
    values = [value for point in found.points for value in (point.loss.delta, point.measured.kld_mean)]
    shades = heatmap.Shades.of(values)
    return render(
        "ablation.html",
        title=f"{fmt.plain(found.model)}: accuracy loss of {found.space.family.subject}",
        above=found.space.title,
        about=found.about,
        verdict=_verdict(found.points) if found.points else None,
        shades=heatmap.key(shades, "nats per token"),
        maps=[drawn for grid in found.space.grids for drawn in _maps(found, grid, shades)],
        legend=legend(found, varying(found.points)[1]) if found.points else [],
        recipes=_table(found.points) if found.points else None,
        failed=[(name_of(one.recipe), one) for one in found.failed],
    )


def _verdict(points: Sequence[RecipePoint]) -> dict[str, object]:
    closest = min(points, key=lambda point: point.measured.kld_mean)
    kld = fmt.decimals_for([closest.measured.kld_stderr], most=6)
    return {
        "best": name_of(points[0].recipe),
        "best_loss": _loss(points[0]),
        "indistinguishable": sum(point.is_as_good for point in points) - 1,
        "others": len(points) - 1,
        "closest": name_of(closest.recipe),
        "closest_kld": f"{closest.measured.kld_mean:.{kld}f} ± {closest.measured.kld_stderr:.{kld}f}",
        "closest_indistinguishable": sum(point.least_kld for point in points) - 1,
        "worst": name_of(points[-1].recipe),
        "worst_loss": _loss(points[-1]),
    }


def _loss(point: RecipePoint) -> str:
    digits = fmt.decimals_for([point.loss.stderr], most=5)
    return f"{fmt.signed(point.loss.delta, digits)} ± {point.loss.stderr:.{digits}f}"


@dataclass(frozen=True)
class _Map:
    title: str
    caption: str
    drawing: heatmap.HeatMap


def _maps(found: Ablation, grid: Grid, shades: heatmap.Shades) -> Iterator[_Map]:
    """The two maps of a grid: one by perplexity, one by divergence."""
    points = {point.recipe: point for row in grid.recipes for point in map(found.of, row) if point is not None}
    if not points:
        return
    by_loss = least({recipe: point.measured.window_nll for recipe, point in points.items()})
    by_kld = least({recipe: point.measured.window_kld for recipe, point in points.items()})
    for name, (best, indistinguishable), value in (
        ("ln(PPL / PPL of the float model)", by_loss, lambda point: point.loss.delta),
        ("KL divergence", by_kld, lambda point: point.measured.kld_mean),
    ):
        cells = [
            [_cell(points.get(one), value, best, indistinguishable, by_loss=name != "KL divergence") for one in row]
            for row in grid.recipes
        ]
        yield _Map(
            grid.title,
            f"{name}; {grid.rows.title} by {grid.columns.title}; other settings as in {grid.base}",
            heatmap.heat_map(
                cells, grid.rows.labels, grid.columns.labels, grid.columns.title, shades, f"{grid.title}: {name}"
            ),
        )


def _cell(
    point: RecipePoint | None,
    value: Callable[[RecipePoint], float],
    best: Setup,
    indistinguishable: set[Setup],
    by_loss: bool,
) -> heatmap.HeatCell | None:
    if point is None:
        return None
    mark = fmt.NO_DIFFERENCE if by_loss and not point.differs else ""
    # two significant digits, or as many decimals as fit in a cell
    decimals = fmt.decimals_for([value(point)], most=4 if by_loss else 5)
    return heatmap.HeatCell(
        value(point),
        mark + fmt.fixed(value(point), decimals),
        f"{name_of(point.recipe)}: PPL {point.measured.perplexity.value:.4f}, ln ratio {_loss(point)}, "
        f"KLD {fmt.small(point.measured.kld_mean)}",
        best=point.recipe == best,
        as_good=point.recipe in indistinguishable,
    )


def _table(points: Sequence[RecipePoint]) -> HtmlTable:
    """The settings in which the recipes differ, and their figures, each with its error under the same head."""
    differing, _ = varying(points)
    columns = figures(points)
    followers = [following.header for _, following in pairwise(columns)] + [""]
    heads = [HtmlCell(name, "from") for name in differing]
    heads += [
        HtmlCell(column.header, span=2 if following == "±" else 1)
        for column, following in zip(columns, followers, strict=True)
        if column.header != "±"
    ]
    rows = []
    for i, point in enumerate(points):
        settings = settings_of(point.recipe)
        cells = [HtmlCell(settings[name] or fmt.MISSING, "from") for name in differing]
        cells += [HtmlCell(column.cells[i].plain, "err" if column.header == "±" else "") for column in columns]
        rows.append(HtmlRow("", cells, HtmlCell(sign(point))))
    return HtmlTable([HtmlCell(), *heads], rows)
