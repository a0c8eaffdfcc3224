"""`sweep compare`: paired differences between two runs, or between two variants of one run."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from sweep.cli import common_options as common
from sweep.cli.exits import Exit, exit_code
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output

EXAMPLES = """
Compare two variants of one run, named by the beginning of its id:
  $ sweep compare micro-q2-q8:Q4_K_M micro-q2-q8:Q3_K_M
Compare the runs of two models, variant by variant:
  $ sweep compare micro-q2-q8 micro-moe-q2-q8
Compare a run with the output of `sweep report --json` on another machine:
  $ sweep compare micro-q2-q8 their-records.jsonl
"""


def compare(
    run_a: str = common.run_argument(
        ...,
        "RUN_A",
        "The first run: its id or a unique beginning of the id. RUN:VARIANT names one of its variants. Or a file with "
        "the JSON of another machine's `sweep report --json` or `sweep run --format json`.",
    ),
    run_b: str = common.run_argument(..., "RUN_B", "The second run, one of its variants, or a file, in the same form."),
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

    With a file, figures are compared only if both sides measured the same text in the same windows against the same
    reference. They are paired where both sides have the values of their windows and items.
    """
    from sweep.analysis.record_files import is_record_file

    if is_record_file(run_a) or is_record_file(run_b):
        return _compare_files(run_a, run_b, variant, workspace, Output(format))
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


def _compare_files(first: str, second: str, variant: str | None, workspace: Path | None, output: Output) -> int:
    from sweep.commands.compare_records import compare_files
    from sweep.report.csv_json import finite
    from sweep.report.record_comparison import record_lines, render_record_comparison
    from sweep.workspace import Workspace, default_root

    space = Workspace((workspace or default_root()).expanduser().absolute())
    found = compare_files(space, first, second, variant)
    if output.is_json:
        output.line({"event": "compared_records", **finite(found.to_json())})
    elif output.format is Format.QUIET:
        for line in record_lines(found):
            output.show(escape(line))
    else:
        output.show(render_record_comparison(found, output.data.width))
    return Exit.OK
