"""`sweep runs`: the stored runs of a workspace."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.table import Table

from sweep.cli import common_options as common
from sweep.cli.output import Format, Output

EXAMPLES = """
List the runs of the default workspace:
  $ sweep runs
List the runs of another workspace, for a script:
  $ sweep runs --workspace build/workspace --format json
"""


def runs(workspace: Path | None = common.WORKSPACE, format: Format = common.FORMAT) -> None:
    """List the stored runs, the latest first.

    For each run: its id, when it was started, its variants, and how many of its jobs are done, have failed, were
    cancelled or skipped, or are damaged. Damaged jobs have a stored result that cannot be read; `sweep run` measures
    them again.
    """
    from sweep.results.history import PastRun, UnreadableRun, all_runs
    from sweep.workspace import open_workspace

    output = Output(format)
    every = all_runs(open_workspace(workspace))
    for run in every:
        if isinstance(run, UnreadableRun):
            output.warn(run.message)
    found = [run for run in every if isinstance(run, PastRun)]
    if output.is_json:
        for run in found:
            output.line(
                {
                    "run": run.plan.run,
                    "model": run.plan.model,
                    "created": run.created,
                    "variants": list(run.plan.variants),
                    "cells": len(run.plan.cells),
                    "done": run.done,
                    "failed": run.failed,
                    "cancelled": run.cancelled,
                    "skipped": run.skipped,
                    "damaged": run.damaged,
                }
            )
        return
    if not every:
        output.say("this workspace has no run yet; start one with `sweep run`")
        return
    table = Table(box=None, pad_edge=False)
    has_others = any(run.others for run in found)
    for column in ("run", "started", "variants", "done", "failed", *(["others"] if has_others else [])):
        table.add_column(column, justify="right" if column in ("done", "failed") else "left")
    for run in found:
        started = datetime.fromtimestamp(run.created).strftime("%Y-%m-%d %H:%M")
        done = f"{run.done}/{len(run.plan.cells)}"
        cells = [run.plan.run, started, " ".join(run.plan.variants), done, str(run.failed), run.others]
        table.add_row(*cells[: len(table.columns)])
    output.show(table)
