"""The advice in the terminal: what to run, the next smaller and better choices, and the commands."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from sweep import format as fmt
from sweep.analysis.advice import Advice, Excluded
from sweep.analysis.candidate import Candidate
from sweep.analysis.target_choice import figure


def render_advice(advice: Advice) -> RenderableType:
    """For `console.print`: the reason, and the alternatives with their figures."""
    sign = Text(f"{fmt.CHOSEN} ", "bold green") if advice.pick else Text("! ", "bold yellow")
    lines: list[RenderableType] = [Text(), Text.assemble(sign, (advice.reason, "bold"))]
    lines += [Text(f"  {words}: {alternative(one, advice.model)}") for words, one in alternatives(advice)]
    if advice.target:
        lines += [Text(f"  {line}") for line in exclusions(advice)]
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


def exclusions(advice: Advice) -> list[str]:
    """With a target: for each of its bounds the variants that miss it, with their values; those that do not fit; the
    others that are excluded, with the reason; and those that satisfy the target too."""
    by_bound: dict[str, list[str]] = {}
    by_reason: dict[str, list[str]] = {}
    too_large = []
    for one in _one_each(advice):
        name = fmt.plain(one.variant) + ("" if one.kv_type == "f16" or not one.misses else f" with {one.kv_type} KV")
        for miss in one.misses:
            words = f"{name} ({figure(miss.constraint, miss.value)})"
            by_bound.setdefault(advice.target.words(miss.constraint), []).append(words)
        if not one.misses and one.reason.startswith("does not fit"):
            too_large.append(name)
        elif not one.misses:
            by_reason.setdefault(one.reason, []).append(name)
    chosen = "" if advice.pick is None else advice.pick.variant
    others = [one.variant for one in advice.usable if one.variant != chosen]
    lines = [f"Excluded by {bound}: {', '.join(names)}" for bound, names in by_bound.items()]
    lines += [f"Do not fit: {', '.join(too_large)}"] if too_large else []
    lines += [f"{' and '.join(names)} {fmt.plain(reason)}" for reason, names in by_reason.items()]
    return lines + ([f"Also satisfy it: {', '.join(map(fmt.plain, dict.fromkeys(others)))}"] if others else [])


def _one_each(advice: Advice) -> list[Excluded]:
    """The excluded variants, each once: with the KV cache of the pick, if it has been tried, or as it comes nearest to
    the target. Variants that satisfy the target with any cache are left out."""
    usable = {one.variant for one in advice.usable}
    cache = None if advice.pick is None else advice.pick.kv_type
    near = {(near.one.variant, near.one.kv_type) for near in advice.nearest if near.one is not None}
    found: dict[str, Excluded] = {}
    for one in advice.excluded:
        is_shown = one.kv_type == cache or (one.variant, one.kv_type) in near
        if one.variant not in usable and (one.variant not in found or is_shown):
            found[one.variant] = one
    return list(found.values())


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
