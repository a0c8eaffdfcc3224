"""The files of `sweep report --card`: the Markdown block, and its plot beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from converters.errors import InputError
from sweep.analysis.advice import Advice
from sweep.commands.launch import remembered_command
from sweep.record import Record
from sweep.report.card import has_plot, render_card, render_plot
from sweep.results.plan import Plan
from sweep.workspace import Workspace


def card_texts(
    card: Path,
    rows: Sequence[Record],
    plan: Plan,
    workspace: Workspace,
    about: Mapping[str, object],
    advice: Advice,
) -> dict[Path, str]:
    """The contents by file. Raises InputError if nothing was measured, or if both files would have one name."""
    if not any(row.status in ("ok", "partial") for row in rows):
        raise InputError(
            f"--card {card}: run {plan.run} has no results yet; repeat its `sweep run` command to resume it"
        )
    plot = card.with_suffix(".svg")
    if plot == card:
        raise InputError(
            f"--card {card}: the plot is written to this file; give the Markdown another name, such as card.md"
        )
    texts = {plot: render_plot(rows, advice.variant, plan.model)} if has_plot(rows) else {}
    try:
        command = remembered_command(workspace.run(plan.run)).line
    except InputError:  # an earlier version, or another program, started the run
        command = None
    name = plot.name.replace(" ", "%20") if texts else None
    return {card: render_card(rows, plan.model, about, advice, name, command), **texts}
