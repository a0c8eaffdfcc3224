"""`sweep eval`: measure one file, or one model at one quant, as it is."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from sweep.cli.amounts import shares
from sweep.cli.output import FORMAT, WORKSPACE, Format, Output
from sweep.cli.tasks import (
    ALLOW_CODE_EXECUTION,
    CHAT_TEMPLATE,
    LIMIT,
    MAX_GEN_TOKS,
    NUM_FEWSHOT,
    TASK_DATA,
    TASKS,
    THINKING,
    Switch,
    is_on,
    names,
)


def evaluate(
    model: str = typer.Argument("micro", help="A .gguf file; or a built-in model, a directory or a hub id."),
    quant: str | None = typer.Option(
        None, "--quant", help="The quant a model is exported at, or int8:RECIPE.", show_default="BF16"
    ),
    perplexity: Path | None = typer.Option(None, "--perplexity", help="The text for perplexity."),
    tasks: str | None = TASKS,
    task_data: Path | None = TASK_DATA,
    limit: int | None = LIMIT,
    num_fewshot: int | None = NUM_FEWSHOT,
    chat_template: bool | None = CHAT_TEMPLATE,
    thinking: Switch | None = THINKING,
    max_gen_toks: int | None = MAX_GEN_TOKS,
    allow_code_execution: bool = ALLOW_CODE_EXECUTION,
    ctx: int | None = typer.Option(None, "--ctx", min=64, help="Context that memory is stated for."),
    window: int | None = typer.Option(None, "--window", min=4, help="Tokens of a perplexity window; 512 by default."),
    stride: int | None = typer.Option(
        None, "--stride", min=1, help="How far windows lie apart, as llama-perplexity --ppl-stride; end to end else."
    ),
    write_base: Path | None = typer.Option(
        None, "--write-base", help="Write llama.cpp's base file of the text here, as its --kl-divergence-base does."
    ),
    ngl: int | None = typer.Option(None, "--ngl", min=0, help="Layers on GPUs; all of them where there is one."),
    n_cpu_moe: int = typer.Option(0, "--n-cpu-moe", min=0, help="Layers, from the first, whose experts stay in RAM."),
    tensor_split: str | None = typer.Option(None, "--tensor-split", help="Shares of several GPUs, such as 3,1."),
    workspace: Path | None = WORKSPACE,
    format: Format = FORMAT,
) -> int:
    """Measure one thing: speed and memory, and the text and tasks asked for; all of them where none is."""
    from sweep import sweeping  # loads numpy and libllama, which --help does not need
    from sweep.cli.results import show_results
    from sweep.cli.watch import Watch
    from sweep.planning.preparing import prepare_single
    from sweep.planning.request import Request
    from sweep.report.text import size

    output = Output(format)
    wanted = Request(
        model=model,
        tasks=names(tasks),
        task_data=task_data,
        perplexity=perplexity,
        limit=limit,
        num_fewshot=num_fewshot,
        chat_template=chat_template,
        thinking=is_on(thinking),
        max_gen_toks=max_gen_toks,
        allow_code=allow_code_execution,
        ctx=ctx,
        window=window,
        stride=stride,
        write_base=write_base,
        ngl=ngl,
        n_cpu_moe=n_cpu_moe,
        tensor_split=shares(tensor_split),
        workspace=workspace,
    )
    sweep = prepare_single(wanted, quant, output.say)
    started = time.monotonic()
    with Watch(sweep.plan, output) as watch:
        sweeping.run(sweep, watch)
    if write_base is not None and write_base.exists():
        output.say(f"{write_base}: the base file, of {size(write_base.stat().st_size)}")
    return show_results(sweep.plan, sweep.workspace, output, seconds=time.monotonic() - started)
