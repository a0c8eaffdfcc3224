"""`sweep report`: the results of a stored run, as a table, HTML, CSV or JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from sweep.cli import common_options as common
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output
from sweep.cli.parsers import export as parse_export
from sweep.cli.parsers import target as parse_target
from sweep.cli.parsers import tolerance as parse_tolerance

EXAMPLES = """
Print the results and the advice of the latest run:
  $ sweep report
Write the HTML report of one run, named by the beginning of its id:
  $ sweep report micro-q2-q8 --html report.html
The best variant that fits a GPU and generates 30 tokens per second:
  $ sweep report --gpu "RTX 3060 12GB" --min-tps 30
Compare the models of two runs, and choose one for 12 MiB:
  $ sweep report micro-size-scaling micro-moe-size-scaling --memory 12MiB
Write the block for a model card, with its plot in README-quants.svg:
  $ sweep report --card README-quants.md
Get the latest run's records for a spreadsheet:
  $ sweep report --csv records.csv
"""


def report(
    runs: list[str] | None = common.run_argument(
        None,
        "RUN...",
        "The run: its id or a unique beginning of the id. Several runs, one for each model, are compared.",
        show_default="the latest run",
    ),
    html: Path | None = common.html(""),
    csv: Path | None = typer.Option(
        None,
        "--csv",
        metavar="FILE",
        help="Write the records to this file as CSV.",
        rich_help_panel=Panel.OUTPUT,
    ),
    export: str | None = common.EXPORT,
    card: Path | None = typer.Option(
        None,
        "--card",
        metavar="FILE",
        help="Write a block of Markdown for a model card to this file: the table, the command, versions and the hash "
        "of the text; and the plot as an SVG file of the same name next to it.",
        show_default="no file",
        rich_help_panel=Panel.OUTPUT,
    ),
    force: bool = common.FORCE,
    json: bool = typer.Option(
        False, "--json", help="Print the records as JSON, one object per line.", rich_help_panel=Panel.OUTPUT
    ),
    gpu: list[str] | None = common.gpu("GPU that the recommended variant has to fit on", "that of the run, or none"),
    ctx: int | None = common.context(64, "the context of the run"),
    min_tps: str | None = common.MIN_TPS,
    max_kld: str | None = common.MAX_KLD,
    min_recovery: str | None = common.MIN_RECOVERY,
    no_target: bool = typer.Option(
        False,
        "--no-target",
        help="Leave out the target, the tolerance and the GPU that `sweep run` was given.",
        rich_help_panel=Panel.TARGET,
    ),
    tolerance: str | None = common.TOLERANCE,
    memory: str | None = common.memory("the free memory of this machine"),
    workspace: Path | None = common.WORKSPACE,
    format: Format = common.FORMAT,
) -> int:
    """Show the results of a stored run again, or write its report to a file.

    With --html, --csv, --card or --json the table is not printed. Of several runs, --html writes the comparison of the
    models, and --csv and --json name the model of each record.

    The advice is for the target and the GPU that `sweep run` was given. An option that is given here replaces that of
    the run.

    The exit code is 1 if a job of the run failed, and 5 if
    none failed but one was cancelled. With a target it is 3 if nothing satisfies it.
    """
    from converters.atomic import write_texts
    from converters.errors import InputError
    from sweep.analysis.changed_items import changed_items
    from sweep.cli.card_output import card_texts
    from sweep.cli.export_output import write_export
    from sweep.cli.run_output import describe_run, exit_code_of, exit_code_with, show_results
    from sweep.cli.sizes_output import show_sizes, sizes_html
    from sweep.commands.run_advice import advise_as_asked
    from sweep.commands.sizes import memory_limit, sizes_of
    from sweep.report.changed_items import ITEMS
    from sweep.report.csv_json import to_csv, to_json_lines
    from sweep.report.html import ANOTHER_FILE, render_html
    from sweep.results.history import find_run
    from sweep.results.records import records
    from sweep.results.store import Store
    from sweep.run_question import NO_QUESTION, RunQuestion
    from sweep.workspace import open_workspace

    output = Output(format)
    parse_export(export)
    accepted = parse_tolerance(tolerance)
    target = parse_target(min_tps, max_kld, min_recovery)
    question = RunQuestion(accepted, target, tuple(gpu or ()), ctx)
    space = open_workspace(workspace)
    plans = [find_run(space, run) for run in runs] if runs else [find_run(space, None)]
    if no_target:
        plans = [replace(plan, question=NO_QUESTION) for plan in plans]
    several = len(plans) > 1
    if memory is not None and not several:
        raise InputError("--memory chooses among several models; name the run of each")
    if several and (question.needs_fit or target or export or card):
        raise InputError(
            "--gpu, --ctx, --card, --export and a target are for one model; name one run, or choose with --memory"
        )
    limit = memory_limit(memory, ()) if several else None
    scaling = sizes_of(plans, space) if several else None
    with Store(space.database) as store:
        rows = [records(plan, store) for plan in plans]
        description = describe_run(plans[0], store)
        shows_items = html is not None and not several
        changed = changed_items(plans[0], store, space.root, ITEMS) if shows_items else []
    every = [record for own in rows for record in own]
    models = [plan.model for plan, own in zip(plans, rows, strict=True) for _ in own] if several else []
    texts = {}
    if html is not None and scaling is not None and limit is not None:
        texts[html] = sizes_html(scaling, plans, limit, accepted)
    if csv is not None:
        texts[csv] = to_csv(every, models)
    writes = not several and (
        html is not None or card is not None or ((csv is not None or json) and export is not None)
    )
    advice, said = advise_as_asked(every, plans[0], space, question) if writes else (None, [])
    if html is not None and advice is not None:
        texts[html] = render_html(every, description, advice, changed)
    if card is not None and advice is not None:
        texts |= card_texts(card, every, plans[0], space, description, advice)
    for line in said:
        output.say(line)
    write_texts(texts, force, ANOTHER_FILE if csv is None else "")
    for path in texts:
        output.say(f"written: {path}")
    if json:
        print(to_json_lines(every, models), end="")
    elif html is None and csv is None and card is None:
        if limit is None:
            return show_results(plans[0], space, output, question, export=export, force=force)
        show_sizes(plans, space, output, limit, accepted, [exit_code_of(own) for own in rows])
    if advice is None:
        return exit_code_of(every)
    if export is not None:
        write_export(export, advice, output, force)
    return exit_code_with(every, advice)
