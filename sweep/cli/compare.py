"""`sweep compare`: two runs, or two variants of one, paired: which differences are real."""

from __future__ import annotations

from pathlib import Path

import typer

from sweep.cli.exits import Exit
from sweep.cli.output import FORMAT, WORKSPACE, Format, Output


def compare(
    run_a: str = typer.Argument(help="A run's id or the beginning of one; RUN:VARIANT for one variant."),
    run_b: str = typer.Argument(help="The run, or RUN:VARIANT, that is compared with it."),
    variant: str | None = typer.Option(None, "--variant", help="Only this variant of both runs."),
    workspace: Path | None = WORKSPACE,
    format: Format = FORMAT,
) -> int:
    """Which differences between two runs are real: tasks item by item, perplexity and KL divergence window by window.

    Variants of the same name are compared; two variants of one run as RUN:Q4_K_M RUN:Q3_K_M.
    """
    from sweep.analysis.compare import compare as compared
    from sweep.report.comparison import render_comparison, verdicts
    from sweep.report.csv_json import finite
    from sweep.workspace import open_workspace

    output = Output(format)
    found = compared(open_workspace(workspace), run_a, run_b, variant)
    if output.is_json:
        output.line({"event": "compared", **finite(found.to_json())})
    elif output.format is Format.QUIET:
        for verdict in verdicts(found):
            output.show(verdict)
    else:
        output.show(render_comparison(found, output.data.width))
    return Exit.CELLS_FAILED if found.failed else Exit.OK
