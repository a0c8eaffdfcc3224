"""`sweep run` with several models: one run after another, each like that of one model, then the comparison of all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.markup import escape

from converters.errors import InputError, MissingRuntime
from converters.resolver import Need, find_model, find_repository
from sweep.cli.dry_run import show_plan
from sweep.cli.exits import Exit, exit_code_for, worst
from sweep.cli.options import RUN
from sweep.cli.output import Output
from sweep.cli.run_display import RunDisplay, say_effort
from sweep.cli.run_output import show_results
from sweep.cli.sizes_output import show_sizes
from sweep.commands import run as command
from sweep.commands.launch import remember_command
from sweep.commands.sizes import memory_limit, require_different_models
from sweep.format import printable
from sweep.planning.piped_text import with_saved_texts
from sweep.planning.prepare import Sweep
from sweep.planning.request import Request

ONLY_FOR_SEVERAL = "--memory"


def run_models(models: Sequence[str], request: Request, memory: str | None, output: Output) -> Exit:
    """Run every model; a run that fails does not keep the others from running. Raises InputError before any work if a
    model does not exist, is named twice, or cannot be planned."""
    require_different_models([(model, model) for model in models])
    limit = memory_limit(memory, request.gpu)
    output.warn_of_idle_gpu()
    for model in models:
        if find_repository(model, output.say) is None:
            find_model(model, Need.PLAN, output.say, is_repository=False)  # before one of the others is downloaded
    sweeps = [command.prepare(replace(request, model=model), _saying(model, output)) for model in models]
    require_different_models([(model, one.model.fingerprint) for model, one in zip(models, sweeps, strict=True)])
    codes = []
    for place, (model, sweep) in enumerate(zip(models, sweeps, strict=True), 1):
        if not output.is_json:
            output.show(f"\n[bold]{place} of {len(models)}[/bold]: {escape(printable(model))}")
        if request.dry_run:
            show_plan(sweep, output)
        else:
            codes.append(_run(model, sweep, request, output))
    if request.dry_run:
        return Exit.OK
    try:
        show_sizes([one.plan for one in sweeps], sweeps[0].workspace, output, limit, request.tolerance, codes)
    except InputError as error:  # the runs that failed have said why
        output.warn(str(error))
    return worst(codes)


def _run(model: str, sweep: Sweep, request: Request, output: Output) -> Exit:
    say_effort(sweep, output)
    arguments = with_saved_texts(arguments_for(model, sys.argv[1:]), sweep.piped_texts)
    remember_command(sweep.workspace.run(sweep.plan.run), arguments)
    started = time.monotonic()
    try:
        with RunDisplay(sweep.plan, output, model) as display:
            command.run(sweep, display)
        seconds = time.monotonic() - started
        code = show_results(sweep.plan, sweep.workspace, output, sweep.plan.question, seconds)
    except (InputError, MissingRuntime) as error:
        code = exit_code_for(error)
        output.warn(str(error))
    if code is not Exit.OK:
        output.warn(f"{model}: exit code {int(code)}")
    return code


def _saying(model: str, output: Output) -> Callable[[str], None]:
    return lambda text: output.say(f"{model}: {text}")


def arguments_for(model: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a `sweep run` of several models for one of them, which resume only its run."""
    flags = {flag for option in RUN if not option.takes_value for flag in option.flags}
    kept = ["run", model]
    words = iter(arguments[1:])
    for word in words:
        if word == "--":
            break  # only models follow
        if word.startswith("--"):
            own = [word] if "=" in word or word in flags else [word, next(words)]
            kept += own if word.partition("=")[0] != ONLY_FOR_SEVERAL else []
    return tuple(kept)
