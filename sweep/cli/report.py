"""`sweep report`: the results of a stored run, as a table, HTML, CSV or JSON."""

from __future__ import annotations

from pathlib import Path

import typer

from sweep.cli import common_options as common
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output
from sweep.cli.parsers import tolerance as parse_tolerance

EXAMPLES = """
Print the results and the advice of the latest run:
  $ sweep report
Write the HTML report of one run, named by the beginning of its id:
  $ sweep report micro-q2-q8 --html report.html
Get the latest run's records for a spreadsheet:
  $ sweep report --csv records.csv
"""


def report(
    run: str | None = common.run_argument(
        None, "RUN", "The run: its id or a unique beginning of the id.", show_default="the latest run"
    ),
    html: Path | None = common.html(""),
    csv: Path | None = typer.Option(
        None,
        "--csv",
        metavar="FILE",
        help="Write the records to this file as CSV.",
        rich_help_panel=Panel.OUTPUT,
    ),
    force: bool = common.FORCE,
    json: bool = typer.Option(
        False, "--json", help="Print the records as JSON, one object per line.", rich_help_panel=Panel.OUTPUT
    ),
    tolerance: str | None = common.TOLERANCE,
    workspace: Path | None = common.WORKSPACE,
    format: Format = common.FORMAT,
) -> int:
    """Show the results of a stored run again, or write its report to a file.

    With --html, --csv or --json the table is not printed. The exit code is 1 if a job of the run failed, and 5 if none
    failed but one was cancelled.
    """
    from converters.atomic import write_texts
    from sweep.cli.run_output import advice_on_run, describe_run, exit_code_of, show_results
    from sweep.report.csv_json import to_csv, to_json_lines
    from sweep.report.html import ANOTHER_FILE, render_html
    from sweep.results.history import find_run
    from sweep.results.records import records
    from sweep.results.store import Store
    from sweep.workspace import open_workspace

    output = Output(format)
    accepted = parse_tolerance(tolerance)
    space = open_workspace(workspace)
    plan = find_run(space, run)
    with Store(space.database) as store:
        rows, description = records(plan, store), describe_run(plan, store)
    texts = {}
    if html is not None:
        texts[html] = render_html(rows, description, advice_on_run(rows, plan, space, accepted))
    if csv is not None:
        texts[csv] = to_csv(rows)
    write_texts(texts, force, ANOTHER_FILE if csv is None else "")
    for path in texts:
        output.say(f"written: {path}")
    if json:
        print(to_json_lines(rows), end="")
    elif html is None and csv is None:
        return show_results(plan, space, output, accepted)
    return exit_code_of(rows)
