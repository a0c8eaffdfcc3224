"""The advice in the terminal: what to run, the next smaller and better choices, and the commands."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.advice import Advice
from sweep.analysis.candidate import Candidate


def render_advice(advice: Advice) -> RenderableType:
    """For `console.print`: the reason, and the alternatives with their figures."""
    sign = Text(f"{fmt.CHOSEN} ", "bold green") if advice.pick else Text("! ", "bold yellow")
    lines: list[RenderableType] = [Text(), Text.assemble(sign, (advice.reason, "bold"))]
    lines += [Text(f"  {words}: {alternative(one, advice.model)}") for words, one in alternatives(advice)]
    return Group(*lines)


def alternatives(advice: Advice) -> list[tuple[str, Candidate]]:
    """The alternatives to the pick, with the words for each."""
    shorter = advice.shorter
    named = (
        ("Smaller", advice.smaller),
        ("Better", advice.better),
        ("" if shorter is None else f"With a context of {shorter.context:,} tokens", shorter),
        ("A smaller model", advice.other_model),
    )
    return [(words, one) for words, one in named if one is not None]


def command_lines(advice: Advice) -> list[str]:
    """Lines to paste, which must not be wrapped: how to get the pick's file, if it is not there, and how to run it."""
    pick = advice.pick
    if pick is None or not pick.commands.run:
        return []
    lines = [fmt.printable(line) for line in (pick.commands.get, pick.commands.run) if line]
    return ["", "Run this:", *(f"  {line}" for line in lines)]


def alternative(one: Candidate, model: str) -> str:
    """A candidate in one line, with its model if that is another one."""
    name = one.name if one.model == model else f"{fmt.plain(one.model)} in {one.name}"
    if one.is_reference:
        return f"{name} ({one.figures}), the reference"
    expected = "" if one.kld is None or one.kld.source == "measured" else "expected "
    kld = "" if one.kld is None else f", {expected}KL divergence {fmt.small(one.kld.value)}"
    return f"{name} ({one.figures}{kld})"
