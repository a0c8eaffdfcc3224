"""`sweep compare`: paired differences between two runs, or between two variants of one run."""

from __future__ import annotations

from pathlib import Path

import typer

from sweep.cli import common_options as common
from sweep.cli.exits import exit_code
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output

EXAMPLES = """
Compare two variants of one run, named by the beginning of its id:
  $ sweep compare micro-q2-q8:Q4_K_M micro-q2-q8:Q3_K_M
Compare the runs of two models, variant by variant:
  $ sweep compare micro-q2-q8 micro-moe-q2-q8
"""


def compare(
    run_a: str = common.run_argument(
        ..., "RUN_A", "The first run: its id or a unique beginning of the id. RUN:VARIANT names one of its variants."
    ),
    run_b: str = common.run_argument(..., "RUN_B", "The second run, or one of its variants, in the same form."),
    variant: str | None = typer.Option(
        None,
        "--variant",
        metavar="NAME",
        help="Compare only this variant of both runs.",
        show_default="every variant that both runs have",
        rich_help_panel=Panel.VARIANTS,
    ),
    workspace: Path | None = common.WORKSPACE,
    format: Format = common.FORMAT,
) -> int:
    """Show which differences between two runs, or two variants, are significant.

    Task scores are compared item by item, perplexity and KL divergence window by window. Variants with the same name
    are compared with each other.
    """
    from sweep.analysis.compare import compare as compare_runs
    from sweep.report.comparison import render_comparison, verdicts
    from sweep.report.csv_json import finite
    from sweep.workspace import open_workspace

    output = Output(format)
    comparison = compare_runs(open_workspace(workspace), run_a, run_b, variant)
    if output.is_json:
        output.line({"event": "compared", **finite(comparison.to_json())})
    elif output.format is Format.QUIET:
        for verdict in verdicts(comparison):
            output.show(verdict)
    else:
        output.show(render_comparison(comparison, output.data.width))
    return exit_code(comparison.endings)
