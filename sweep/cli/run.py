"""`sweep run`: plan, run or go on with, and report a sweep."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

from sweep.cli.amounts import shares
from sweep.cli.exits import Exit
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
from sweep.running.keep import Keep


def run(
    model: str = typer.Argument("micro", help="A built-in model, a directory, a .gguf file or a hub id."),
    preset: str = typer.Option("q2-q8", "--preset", help="Which sweep (see `sweep presets`), or a TOML file."),
    variants: str | None = typer.Option(
        None,
        "--variants",
        help="Quants, gguf:PATH, hub:REPO/FILE, int8:RECIPE and fq:RECIPE by comma, added to the preset; "
        "with a leading = instead of it.",
    ),
    tasks: str | None = TASKS,
    task_data: Path | None = TASK_DATA,
    perplexity: Path | None = typer.Option(None, "--perplexity", help="The text for perplexity and KL divergence."),
    limit: int | None = LIMIT,
    num_fewshot: int | None = NUM_FEWSHOT,
    chat_template: bool | None = CHAT_TEMPLATE,
    thinking: Switch | None = THINKING,
    max_gen_toks: int | None = MAX_GEN_TOKS,
    allow_code_execution: bool = ALLOW_CODE_EXECUTION,
    ctx: int | None = typer.Option(None, "--ctx", min=64, help="Context that memory is stated for."),
    reference: str | None = typer.Option(
        None,
        "--reference",
        metavar="auto|VARIANT|FILE",
        help="What all are compared with; auto is BF16 where memory holds it, else Q8_0; a file of log-probabilities.",
    ),
    window: int | None = typer.Option(None, "--window", min=4, help="Tokens of a perplexity window; 512 by default."),
    stride: int | None = typer.Option(
        None, "--stride", min=1, help="How far windows lie apart, as llama-perplexity --ppl-stride; end to end else."
    ),
    imatrix: str | None = typer.Option(
        None, "--imatrix", metavar="FILE|auto", help="An importance matrix for all quants; auto makes one."
    ),
    calibration: Path | None = typer.Option(
        None, "--calibration", help="The text that --imatrix auto and int8 recipes read."
    ),
    keep: Keep = typer.Option(Keep.ALL, "--keep", help="Which files stay: all, the best one, or none once measured."),
    ngl: int | None = typer.Option(None, "--ngl", min=0, help="Layers on GPUs; all of them where there is one."),
    n_cpu_moe: int = typer.Option(0, "--n-cpu-moe", min=0, help="Layers, from the first, whose experts stay in RAM."),
    tensor_split: str | None = typer.Option(None, "--tensor-split", help="Shares of several GPUs, such as 3,1."),
    gpu: list[str] | None = typer.Option(
        None,
        "--gpu",
        help='Skip what this GPU does not hold: a name ("RTX 4090") or a size (24GiB); again for several.',
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the plan with exact sizes, and do nothing."),
    workspace: Path | None = WORKSPACE,
    format: Format = FORMAT,
) -> int:
    """Export a model to every variant of a preset, measure them all, and say which one to run."""
    from sweep import sweeping  # loads numpy and libllama, which --help does not need
    from sweep.planning.preparing import prepare
    from sweep.planning.request import Request

    output = Output(format)
    wanted = Request(
        model=model,
        preset=preset,
        variants=variants,
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
        reference=reference,
        imatrix=imatrix,
        calibration=calibration,
        keep=keep,
        ngl=ngl,
        n_cpu_moe=n_cpu_moe,
        tensor_split=shares(tensor_split),
        gpu=tuple(gpu or ()),
        workspace=workspace,
        dry_run=dry_run,
    )
    sweep = prepare(wanted, output.say)
    if dry_run:
        from sweep.cli.plans import show_plan

        show_plan(sweep, output)
        return Exit.OK
    from sweep.cli.watch import Watch
    from sweep.launching import remember_command

    remember_command(sweep.workspace.run(sweep.plan.run), sys.argv[1:])
    started = time.monotonic()
    with Watch(sweep.plan, output) as watch:
        sweeping.run(sweep, watch)
    from sweep.cli.results import show_results

    return show_results(sweep.plan, sweep.workspace, output, seconds=time.monotonic() - started)
