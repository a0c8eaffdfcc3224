"""`sweep eval`: measure one GGUF file, or one model at one quant, without comparing it."""

from __future__ import annotations

import time

from sweep.cli import common_options as common
from sweep.cli.options import EVAL, with_options
from sweep.cli.output import Format, Output
from sweep.planning.request import Request

EXAMPLES = """
Measure a GGUF file on the tasks of the list reasoning:
  $ sweep eval model-Q4_K_M.gguf --tasks reasoning --limit 50
Measure only the perplexity of a model at one quant:
  $ sweep eval micro --quant Q4_K_M --perplexity text.txt
The same, until the perplexity is known to within 2 percent:
  $ sweep eval micro --quant Q4_K_M --perplexity text.txt --precision 2%
Measure only speed, also with 4,096 tokens in the context:
  $ sweep eval model-Q4_K_M.gguf --measure speed --depth 4096
Write the log-probabilities of the unquantized model, to compare with later:
  $ sweep eval micro --perplexity text.txt --write-base micro.kld
"""


@with_options(*EVAL)
def evaluate(request: Request, format: Format = common.FORMAT) -> int:
    """Measure one GGUF file, or one model at one quant.

    The default text, the default tasks, speed and memory are measured. With --perplexity or --tasks, only the named
    text and tasks are, and memory is predicted; --measure chooses otherwise. The results are not compared with a
    reference.
    """
    from sweep.cli.run_display import RunDisplay
    from sweep.cli.run_output import show_results
    from sweep.commands import run as command  # loads numpy and libllama, which --help does not need
    from sweep.format import size

    output = Output(format)
    sweep = command.prepare_single(request, output.say)
    output.warn_of_idle_gpu()
    started = time.monotonic()
    with RunDisplay(sweep.plan, output) as display:
        command.run(sweep, display)
    base_file = request.write_base
    if base_file is not None and base_file.exists():
        output.say(f"{base_file}: the base file, {size(base_file.stat().st_size)}")
    return show_results(sweep.plan, sweep.workspace, output, seconds=time.monotonic() - started)
