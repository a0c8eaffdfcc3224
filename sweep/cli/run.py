"""`sweep run`: plan, run or go on with, and report a sweep."""

from __future__ import annotations

import sys
import time

from sweep.cli.exits import Exit
from sweep.cli.options import RUN, takes
from sweep.cli.output import FORMAT, Format, Output
from sweep.planning.request import Request


@takes(*RUN)
def run(request: Request, format: Format = FORMAT) -> int:
    """Export a model to every variant of a preset, measure them all, and say which one to run."""
    from sweep.commands import run as command  # loads numpy and libllama, which --help does not need

    output = Output(format)
    sweep = command.prepare(request, output.say)
    if request.dry_run:
        from sweep.cli.dry_run import show_plan

        show_plan(sweep, output)
        return Exit.OK
    from sweep.cli.watch import Watch
    from sweep.commands.launch import remember_command

    remember_command(sweep.workspace.run(sweep.plan.run), sys.argv[1:])
    started = time.monotonic()
    with Watch(sweep.plan, output) as watch:
        command.run(sweep, watch)
    from sweep.cli.results import show_results

    return show_results(sweep.plan, sweep.workspace, output, seconds=time.monotonic() - started)
