"""An ablation for the terminal: all recipes from the least loss to the greatest, with errors and what is real."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.ablation import Ablation, RecipePoint, name_of, told
from sweep.report.columns import Column, fit
from sweep.statistics import ALPHA


def render_ablation(found: Ablation, console_width: int) -> RenderableType:
    """For `console.print`: the table, what all recipes have in common, what failed."""
    parts: list[RenderableType] = []
    if found.points:
        settings, common = varying(found.points)
        lead = [Column("", [Text(sign(point)) for point in found.points], inf, left=True)]
        lead += [
            Column(about, [Text(point_told[about]) for point_told in map(_told, found.points)], inf, left=True)
            for about in settings
        ]
        shown, dropped = fit(["" for _ in found.points], lead, figures(found.points), console_width)
        parts += [shown, Text(), *(Text(line, "dim") for line in legend(found, common))]
        if dropped:
            parts.append(Text(f"Not shown at this width: {', '.join(dropped)}.", "dim"))
    for recipe, error in found.failed:
        parts.append(Text(f"{fmt.STATUS_SIGNS['failed']} {name_of(recipe)}: {fmt.plain(error)}", "red"))
    return Group(*parts)


def varying(points: Sequence[RecipePoint]) -> tuple[list[str], dict[str, str]]:
    """What the recipes differ in, and what all of them have."""
    rows = [told(point.recipe) for point in points]
    differing = [about for about in rows[0] if len({row[about] for row in rows}) > 1]
    return differing, {about: words for about, words in rows[0].items() if about not in differing and words}


def sign(point: RecipePoint) -> str:
    """The best recipe, those not distinguishable from it, and those not distinguishable from the float model."""
    rank = fmt.PARETO if point.is_best else fmt.UNSURE if point.is_as_good else " "
    return rank + (" " if point.costs else fmt.ALIKE)


def figures(points: Sequence[RecipePoint]) -> list[Column]:
    """Perplexity, ln ratio and KL divergence with their errors."""
    ratio = fmt.decimals_for([point.loss.stderr for point in points], most=5, least=4)
    kld = fmt.decimals_for([point.measured.kld_stderr for point in points], figures=1, most=6, least=4)

    def column(head: str, written: Sequence[str], priority: float) -> Column:
        return Column(head, [Text(one) for one in written], priority)

    return [
        column("PPL", [fmt.fixed(point.measured.perplexity.value, 4) for point in points], 8),
        column("ln ratio", [fmt.signed(point.loss.delta, ratio) for point in points], inf),
        column("±", [f"{point.loss.stderr:.{ratio}f}" for point in points], 7),
        column("KLD", [f"{_least(point)} {fmt.fixed(point.measured.kld_mean, kld)}" for point in points], 6),
        column("±", [f"{point.measured.kld_stderr:.{kld}f}" for point in points], 5),
        column("top-1 %", [f"{100 * point.measured.top1_agreement:.2f}" for point in points], 4),
    ]


def legend(found: Ablation, common: dict[str, str]) -> list[str]:
    """What the figures are, in lines."""
    signs = {
        fmt.PARETO: f"{fmt.PARETO} least loss",
        fmt.UNSURE: f"{fmt.UNSURE} indistinguishable from {fmt.PARETO}",
        fmt.ALIKE: f"{fmt.ALIKE} indistinguishable from the float model",
    }
    here = "".join(map(sign, found.points))
    float_one = found.reference
    lines = [
        f"{'; '.join(words for mark, words in signs.items() if mark in here)}. "
        f"Tests are paired by window, at level {ALPHA:g} after Holm's correction over {len(found.points)} recipes.",
        "ln ratio: ln(PPL / PPL of the float model) in nats per token. "
        f"The float model's PPL is {float_one.value:.4f}; 0.01 is 1 % of perplexity.",
        f"KLD: mean KL divergence from the float model in nats per token. {fmt.UNSURE} marks the lowest and those that "
        "are indistinguishable from it. ± is one standard error, over windows.",
    ]
    if common:
        shared = ", ".join(f"{about} {words}" for about, words in common.items())
        lines.append(f"Settings of all recipes: {shared}.")
    return lines


def _least(point: RecipePoint) -> str:
    return fmt.UNSURE if point.least_kld else " "


def _told(point: RecipePoint) -> dict[str, str]:
    return {about: words or fmt.MISSING for about, words in told(point.recipe).items()}
