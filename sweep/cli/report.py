"""`sweep report`: an earlier run's table, as HTML, CSV or JSON too."""

from __future__ import annotations

from pathlib import Path

import typer

from sweep.cli.output import FORMAT, WORKSPACE, Format, Output


def report(
    run: str | None = typer.Argument(None, help="A run's id, or the beginning of one.", show_default="the latest"),
    html: Path | None = typer.Option(None, "--html", help="Write the HTML report here."),
    csv: Path | None = typer.Option(None, "--csv", help="Write the records as CSV here."),
    json: bool = typer.Option(False, "--json", help="Print the records as JSON lines."),
    workspace: Path | None = WORKSPACE,
    format: Format = FORMAT,
) -> int:
    """Show a run again, or write its report elsewhere."""
    from converters.atomic import write_text
    from sweep.cli.results import described, exit_code, show_results
    from sweep.report.csv_json import to_csv, to_json_lines
    from sweep.report.html import write_html
    from sweep.results.history import find_run
    from sweep.results.records import records
    from sweep.results.store import Store
    from sweep.workspace import open_workspace

    output = Output(format)
    space = open_workspace(workspace)
    plan = find_run(space, run)
    with Store(space.database) as store:
        rows, about = records(plan, store), described(plan, store)
    if html is not None:
        output.say(f"written: {write_html(rows, about, html)}")
    if csv is not None:
        write_text(csv, to_csv(rows))
        output.say(f"written: {csv}")
    if json:
        print(to_json_lines(rows), end="")
    elif html is None and csv is None:
        return show_results(plan, space, output)
    return exit_code(rows)
