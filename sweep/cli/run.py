"""`sweep run`: plan a sweep, run or resume it, and report it."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from converters.errors import InputError
from sweep.cli import common_options as common
from sweep.cli.exits import Exit
from sweep.cli.options import SWEEP, with_options
from sweep.cli.output import Format, Output
from sweep.mixing.budget import mix_budget
from sweep.planning.request import Request
from sweep.variant_name import variant_names

EXAMPLES = """
Compare every quant from Q2_K to Q8_0 of a model on the Hub:
  $ sweep run Qwen/Qwen3-4B --preset q2-q8
Which of the files that somebody published to run on a 12 GiB GPU:
  $ sweep run unsloth/Qwen3-8B-GGUF --gpu 12GiB
Print file sizes and predicted memory, and stop:
  $ sweep run Qwen/Qwen3-4B --dry-run
Compare only these two variants with BF16, without tasks:
  $ sweep run micro --variants '=Q4_K_M,IQ4_XS' --tasks none
Measure a quant and an int8 recipe on the first 20 items of each task:
  $ sweep run micro --variants '=Q8_0,int8:sq-ph-dyn' --limit 20
Which of two models to run in 8 GiB, and in which quant:
  $ sweep run Qwen/Qwen3-4B Qwen/Qwen3-8B --preset size-scaling --memory 8GiB
The best quant that fits a GPU and generates 30 tokens per second:
  $ sweep run Qwen/Qwen3-8B --gpu "RTX 4090" --ctx 16384 --min-tps 30
Skip what does not fit, and keep only the recommended file:
  $ sweep run Qwen/Qwen3-8B --gpu "RTX 4090" --keep best
"""


@with_options(*SWEEP)
def run(
    request: Request,
    models: list[str] = common.models(
        common.BUILT_IN, common.CHECKPOINT, common.GGUF_FILE, common.HUB_ID, common.GGUF_REPOSITORY
    ),
    memory: str | None = common.memory("the memory of --gpu, or of this machine"),
    format: Format = common.FORMAT,
) -> int:
    """Measure many variants of a model in the same way and advise which one to run.

    Each variant is made and measured: perplexity, KL divergence, tasks, memory and speed. The advice names the smallest
    variant whose loss nobody notices, or the one that loses least, and says what the items cannot rule out.

    Several models are measured one after another, each in a run of its own. Then a report compares them: what each
    quant costs each model, and which model in which quant is the best for the memory.

    Every result is stored as soon as it is measured. If the run is interrupted, run the same command again to resume.
    """
    from sweep.commands import run as command  # loads numpy and libllama, which --help does not need

    output = Output(format)
    if len(models) > 1:
        if request.export is not None:
            raise InputError("--export is for one model; use it with `sweep report RUN` afterwards")
        if request.search is not None:
            raise InputError("--search is for one model; run it for each of them")
        if _names_size(request):
            raise InputError("the mix of a size (mix:5.5GiB) is for one model; run the sweep for each of them")
        from sweep.cli.several_models import run_models

        return run_models(models, request, memory, output)
    if memory is not None:
        raise InputError("--memory chooses among several models; name them, or use --gpu for one model")
    request = replace(request, model=models[0])
    if _names_size(request):
        from sweep.cli.run_display import RunDisplay
        from sweep.commands.best_mix import with_mixes

        request = with_mixes(request, output.say, lambda sweep: RunDisplay(sweep.plan, output))
    sweep = command.prepare(request, output.say)
    output.warn_of_idle_gpu()
    if request.dry_run:
        from sweep.cli.dry_run import show_plan

        show_plan(sweep, output)
        return Exit.OK
    from sweep.cli.run_display import RunDisplay, say_effort
    from sweep.commands.launch import remember_command
    from sweep.planning.piped_text import with_saved_texts

    say_effort(sweep, output)
    remember_command(sweep.workspace.run(sweep.plan.run), with_saved_texts(sys.argv[1:], sweep.piped_texts))
    started = time.monotonic()
    with RunDisplay(sweep.plan, output) as display:
        plan = command.run(sweep, display)
    from sweep.cli.run_output import show_results

    seconds = time.monotonic() - started
    return show_results(plan, sweep.workspace, output, plan.question, seconds, export=request.export)


def _names_size(request: Request) -> bool:
    """Whether a variant is the best mix of a size."""
    return any(mix_budget(name) is not None for name in variant_names((request.variants or "").removeprefix("=")))
