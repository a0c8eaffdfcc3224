"""The advice in the terminal: what to run, the next smaller and better choices, and the command."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.advice import Advice, Candidate


def render_advice(advice: Advice) -> RenderableType:
    """For `console.print`: the reason, the alternatives with their figures, and the command."""
    sign = Text(f"{fmt.CHOSEN} ", "bold green") if advice.pick else Text("! ", "bold yellow")
    lines: list[RenderableType] = [Text(), Text.assemble(sign, (advice.reason, "bold"))]
    for words, one in (
        ("Smaller", advice.smaller),
        ("Better", advice.better),
        ("A smaller model", advice.other_model),
    ):
        if one is not None:
            lines.append(Text(f"  {words}: {alternative(one, advice.model)}"))
    return Group(*lines)


def alternative(one: Candidate, model: str) -> str:
    """A candidate in one line, with its model if that is another one."""
    name = one.name if one.model == model else f"{fmt.plain(one.model)} in {one.name}"
    expected = "" if one.kld is None or one.kld.source == "measured" else "expected "
    kld = "" if one.kld is None else f", {expected}KL divergence {fmt.small(one.kld.value)}"
    return f"{name} ({one.figures}{kld})"
