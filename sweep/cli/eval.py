"""`sweep eval`: measure one file, or one model at one quant, as it is."""

from __future__ import annotations

import time

from sweep.cli.options import EVAL, takes
from sweep.cli.output import FORMAT, Format, Output
from sweep.planning.request import Request


@takes(*EVAL)
def evaluate(request: Request, format: Format = FORMAT) -> int:
    """Measure one thing: speed and memory, and the text and tasks asked for; all of them where none is."""
    from sweep.cli.results import show_results
    from sweep.cli.watch import Watch
    from sweep.commands import run as command  # loads numpy and libllama, which --help does not need
    from sweep.format import size

    output = Output(format)
    sweep = command.prepare_single(request, output.say)
    started = time.monotonic()
    with Watch(sweep.plan, output) as watch:
        command.run(sweep, watch)
    base = request.write_base
    if base is not None and base.exists():
        output.say(f"{base}: the base file, of {size(base.stat().st_size)}")
    return show_results(sweep.plan, sweep.workspace, output, seconds=time.monotonic() - started)
