"""An ablation as one HTML file: heat maps of every grid by perplexity and by divergence, and all recipes in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from int8.design_space import Grid
from int8.recipe import Recipe
from sweep import format as fmt
from sweep.analysis.ablation import Ablation, Point, least, name_of, told
from sweep.report import heatmap
from sweep.report.ablation import figures, legend, sign, varying
from sweep.report.columns import Column
from sweep.report.html import measured_section, page
from sweep.report.html_tables import esc


def render_page(found: Ablation) -> str:
    """The whole page."""
    title = f"{fmt.plain(found.model)}: what int8 recipes cost"
    sections = [_verdict(found), _maps(found), _table(found), _failures(found), measured_section(found.about)]
    return page(title, f"bitsweep · {esc(found.space.title)}", sections)


def _verdict(found: Ablation) -> str:
    if not found.points:
        return '<section class="verdict none"><p>No recipe could be measured.</p></section>'
    best, worst = found.points[0], found.points[-1]
    closest = min(found.points, key=lambda point: point.measured.kld_mean)
    others = len(found.points) - 1
    alike, close = (sum(marks) - 1 for marks in zip(*((p.is_as_good, p.least_kld) for p in found.points), strict=True))
    kld = fmt.decimals_for([closest.measured.kld_stderr], most=6)
    return (
        f'<section class="verdict"><p>Least loss: <strong>{esc(name_of(best.recipe))}</strong>, ln(PPL / float) '
        f"{_loss(best)}; {alike} of the other {others} recipes are not distinguishable from it. Least KL divergence: "
        f"{esc(name_of(closest.recipe))}, {closest.measured.kld_mean:.{kld}f} ± {closest.measured.kld_stderr:.{kld}f}; "
        f"{close} of {others} are not distinguishable. "
        f"Most costs {esc(name_of(worst.recipe))}: {_loss(worst)}.</p></section>"
    )


def _loss(point: Point) -> str:
    digits = fmt.decimals_for([point.loss.stderr], most=5)
    return f"{fmt.signed(point.loss.delta, digits)} ± {point.loss.stderr:.{digits}f}"


# --- heat maps ------------------------------------------------------------------------------------------------------


def _maps(found: Ablation) -> str:
    if not found.points:
        return ""
    values = [value for point in found.points for value in (point.loss.delta, point.measured.kld_mean)]
    shades = heatmap.Shades.of(values)
    figures = "".join(figure for grid in found.space.grids for figure in _of_grid(found, grid, shades))
    return (
        "<section><h2>Two settings at a time</h2>"
        '<p class="note">Each map changes two settings of its base recipe. A frame marks the least of a map, '
        f"{fmt.UNSURE} what is not distinguishable from it, {fmt.ALIKE} what is not from the float model "
        "(paired by window, at 0.05 after Holm's correction). Where a setting has no effect, as alpha without folds, "
        "cells show one measurement.</p>"
        f"{heatmap.key(shades, 'nats per token')}"
        f'<div class="plots">{figures}</div></section>'
    )


def _of_grid(found: Ablation, grid: Grid, shades: heatmap.Shades) -> Iterator[str]:
    """A figure for perplexity and one for divergence."""
    points = {point.recipe: point for row in grid.recipes for point in map(found.of, row) if point is not None}
    if not points:
        return
    by_loss = least({recipe: point.measured.window_nll for recipe, point in points.items()})
    by_kld = least({recipe: point.measured.window_kld for recipe, point in points.items()})
    for name, (best, alike), value in (
        ("ln(PPL / float)", by_loss, lambda point: point.loss.delta),
        ("KL divergence", by_kld, lambda point: point.measured.kld_mean),
    ):
        cells = [
            [_cell(points.get(one), value, best, alike, by_loss=name != "KL divergence") for one in row]
            for row in grid.recipes
        ]
        told = f"{grid.title}: {name}"
        svg = heatmap.heat_map(cells, grid.rows.labels, grid.columns.labels, grid.columns.title, shades, told)
        under = f"{name}; {grid.rows.title} by {grid.columns.title}, all else of {grid.base}"
        yield f"<figure><figcaption>{esc(grid.title)}<span>{esc(under)}</span></figcaption>{svg}</figure>"


def _cell(
    point: Point | None, value: Callable[[Point], float], best: Recipe, alike: set[Recipe], by_loss: bool
) -> heatmap.Cell | None:
    if point is None:
        return None
    unsure = fmt.ALIKE if by_loss and not point.costs else ""
    return heatmap.Cell(
        value(point),
        unsure + _short(value(point), 4 if by_loss else 5),
        f"{name_of(point.recipe)}: PPL {point.measured.perplexity.value:.4f}, ln ratio {_loss(point)}, "
        f"KLD {fmt.small(point.measured.kld_mean)}",
        best=point.recipe == best,
        as_good=point.recipe in alike,
    )


def _short(value: float, most: int) -> str:
    """Two figures, or as many decimals as `most`, which a cell has room for."""
    return fmt.fixed(value, fmt.decimals_for([value], most=most))


# --- the rest -------------------------------------------------------------------------------------------------------


def _table(found: Ablation) -> str:
    if not found.points:
        return ""
    settings, common = varying(found.points)
    columns = figures(found.points)
    heads = "".join(f'<th scope="col" class="from">{esc(about)}</th>' for about in settings)
    heads += "".join(
        f'<th scope="col"{" colspan=2" if error else ""}>{esc(column.header)}</th>'
        for column, error in _with_errors(columns)
    )
    body = []
    for i, point in enumerate(found.points):
        own = told(point.recipe)
        words = "".join(f'<td class="from">{esc(own[about] or fmt.MISSING)}</td>' for about in settings)
        cells = "".join(
            f"<td{' class=err' if column.header == '±' else ''}>{esc(column.cells[i].plain)}</td>" for column in columns
        )
        body.append(f'<tr><th scope="row"><span class="sign">{sign(point)}</span></th>{words}{cells}</tr>')
    notes = "".join(f'<p class="caption">{esc(line)}</p>' for line in legend(found, common))
    return (
        f"<section><h2>All recipes, from the least loss</h2>{notes}"
        f'<div class="scroll"><table><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _with_errors(columns: Sequence[Column]) -> Iterator[tuple[Column, bool]]:
    """Each column that is no error, and whether one follows it."""
    for column, following in zip(columns, [*columns[1:], None], strict=True):
        if column.header != "±":
            yield column, following is not None and following.header == "±"


def _failures(found: Ablation) -> str:
    items = "".join(
        f'<li><span class="sign failed">{fmt.STATUS_SIGNS["failed"]}</span><strong>{esc(name_of(recipe))}</strong>: '
        f"<code>{esc(error)}</code></li>"
        for recipe, error in found.failed
    )
    return f'<section><h2>What failed</h2><ul class="failures">{items}</ul></section>' if items else ""
