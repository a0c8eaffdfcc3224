"""An ablation for the terminal: all recipes from the least to the largest loss, with errors and significance."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.ablation import Ablation, RecipePoint
from sweep.analysis.setup_words import name_of, settings_of
from sweep.report.columns import Column, fit_to_width
from sweep.statistics import ALPHA


def render_ablation(found: Ablation, console_width: int) -> RenderableType:
    """For `console.print`: the table, the settings that all recipes share, and failures."""
    parts: list[RenderableType] = []
    if found.points:
        differing, common = varying(found.points)
        rows = [settings_of(point.recipe) for point in found.points]
        fixed = [Column("", [Text(sign(point)) for point in found.points], inf, left=True)]
        fixed += [
            Column(name, [Text(settings[name] or fmt.MISSING) for settings in rows], inf, left=True)
            for name in differing
        ]
        shown, dropped = fit_to_width(["" for _ in found.points], fixed, figures(found.points), console_width)
        parts += [shown, Text(), *(Text(line, "dim") for line in legend(found, common))]
        if dropped:
            parts.append(Text(f"Not shown at this width: {', '.join(dropped)}.", "dim"))
    for one in found.failed:
        line = f"{fmt.STATUS_SIGNS[one.status]} {name_of(one.recipe)} {one.status}: {fmt.plain(one.error)}"
        parts.append(Text(line, "red" if one.status == "failed" else "yellow"))
    return Group(*parts)


def varying(points: Sequence[RecipePoint]) -> tuple[list[str], dict[str, str]]:
    """The names of the settings in which the recipes differ, and the settings that all of them share."""
    rows = [settings_of(point.recipe) for point in points]
    differing = [name for name in rows[0] if len({row[name] for row in rows}) > 1]
    return differing, {name: words for name, words in rows[0].items() if name not in differing and words}


def sign(point: RecipePoint) -> str:
    """Two characters: a sign if the recipe is the best or indistinguishable from the best, and a sign if it does not
    differ significantly from the float model."""
    rank = fmt.PARETO if point.is_best else fmt.INDISTINGUISHABLE if point.is_as_good else " "
    return rank + (" " if point.differs else fmt.NO_DIFFERENCE)


def figures(points: Sequence[RecipePoint]) -> list[Column]:
    """The columns of bits per weight, if known, perplexity, ln ratio, KL divergence and top-1 %, with errors."""
    ratio = fmt.decimals_for([point.loss.stderr for point in points], most=5, least=4)
    kld = fmt.decimals_for([point.measured.kld_stderr for point in points], figures=1, most=6, least=4)

    def column(head: str, written: Sequence[str], priority: float) -> Column:
        return Column(head, [Text(one) for one in written], priority)

    bits = [point.measured.bits_per_weight for point in points]
    known = [column("bpw", ["" if one is None else f"{one:.2f}" for one in bits], 9)] if any(bits) else []
    return [
        *known,
        column("PPL", [fmt.fixed(point.measured.perplexity.value, 4) for point in points], 8),
        column("ln ratio", [fmt.signed(point.loss.delta, ratio) for point in points], inf),
        column("±", [f"{point.loss.stderr:.{ratio}f}" for point in points], 7),
        column("KLD", [f"{_least(point)} {fmt.fixed(point.measured.kld_mean, kld)}" for point in points], 6),
        column("±", [f"{point.measured.kld_stderr:.{kld}f}" for point in points], 5),
        column("top-1 %", [f"{100 * point.measured.top1_agreement:.2f}" for point in points], 4),
    ]


def legend(found: Ablation, common: dict[str, str]) -> list[str]:
    """Lines that explain signs and figures."""
    signs = {
        fmt.PARETO: f"{fmt.PARETO} least loss",
        fmt.INDISTINGUISHABLE: f"{fmt.INDISTINGUISHABLE} indistinguishable from {fmt.PARETO}",
        fmt.NO_DIFFERENCE: f"{fmt.NO_DIFFERENCE} indistinguishable from the float model",
    }
    shown = "".join(map(sign, found.points))
    lines = [
        f"{'; '.join(words for mark, words in signs.items() if mark in shown)}. "
        f"Tests are paired by window, at level {ALPHA:g} after Holm's correction over {len(found.points)} recipes.",
        "ln ratio: ln(PPL / PPL of the float model) in nats per token. "
        f"The float model's PPL is {found.reference.value:.4f}; 0.01 is 1 % of perplexity.",
        "KLD: mean KL divergence from the float model in nats per token. "
        f"{fmt.INDISTINGUISHABLE} marks the lowest and those that are indistinguishable from it.",
        "± is one standard error, over windows.",
    ]
    if common:
        shared = ", ".join(f"{name} {words}" for name, words in common.items())
        lines.append(f"Settings of all recipes: {shared}.")
    return lines


def _least(point: RecipePoint) -> str:
    return fmt.INDISTINGUISHABLE if point.least_kld else " "
