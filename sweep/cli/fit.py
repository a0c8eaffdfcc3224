"""`sweep fit`: what of a model fits on which device, with nothing of it here."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from sweep.cli.exits import Exit
from sweep.cli.output import FORMAT, WORKSPACE, Format, Output
from sweep.defaults import DEFAULT_CONTEXT, KV_TYPES

GPU = typer.Option(
    None, "--gpu", help='A GPU by name ("RTX 4090", "2xRTX 6000 Ada") or size (24GiB, "64GiB RAM"); again for several.'
)


def fit(
    model: str = typer.Argument(
        "micro", help="A built-in model, a directory, a config.json, a .gguf, a hub id, or a public model's name."
    ),
    gpu: list[str] | None = GPU,
    variants: str | None = typer.Option(
        None, "--variants", help="Quants and int8:RECIPE by comma.", show_default="all"
    ),
    ctx: int | None = typer.Option(
        None, "--ctx", min=1, help=f"Tokens of context a sequence; {DEFAULT_CONTEXT} by default."
    ),
    kv_type: str = typer.Option(
        "f16", "--kv-type", metavar="K[,V]", help=f"Of the cache: {', '.join(KV_TYPES[:-1])} or {KV_TYPES[-1]}."
    ),
    parallel: int = typer.Option(1, "--parallel", min=1, max=256, help="Sequences at a time, each with that context."),
    ubatch: int = typer.Option(512, "--ubatch", min=1, help="Tokens of a physical batch."),
    flash_attn: bool | None = typer.Option(
        None, "--flash-attn/--no-flash-attn", help="Flash attention; llama.cpp decides by default."
    ),
    projector: bool = typer.Option(False, "--projector", help="Count the vision projector too."),
    offload: bool = typer.Option(True, "--offload/--no-offload", help="Keep a part in RAM where not all fits."),
    best: bool = typer.Option(False, "--best", help="Say which variant to run, by what runs have measured."),
    explain: bool = typer.Option(False, "--explain", help="Show each figure's formula and source."),
    workspace: Path | None = WORKSPACE,
    format: Format = FORMAT,
) -> int:
    """What fits: memory of each variant to the byte, by llama.cpp's own answer, with no weights read.

    On the devices of this machine with what is free now, or on those that --gpu names (see `sweep gpus`).
    """
    from sweep.analysis.best import best as choose
    from sweep.analysis.best import measured_klds
    from sweep.commands.fit import fit as ask
    from sweep.fit.fit_report import FitOptions, to_json
    from sweep.fit.hardware import parse_devices
    from sweep.fit.local_devices import local_devices
    from sweep.report.fit import commands, render_choice, render_fit, render_formulas
    from sweep.workspace import Workspace, default_root

    output = Output(format)
    type_k, type_v = _kv_types(kv_type)
    options = FitOptions(
        context=ctx or 0,
        kv_type_k=type_k,
        kv_type_v=type_v,
        parallel=parallel,
        ubatch=ubatch,
        flash_attention=flash_attn,
        projector=projector,
        offload="auto" if offload else "none",
    )
    devices = parse_devices(gpu) if gpu else local_devices()
    names = [] if variants is None else [name.strip() for name in variants.split(",") if name.strip()]
    report = ask(model, names, devices, options)
    space = Workspace((workspace or default_root()).expanduser())
    choice = choose(report, measured_klds(space, report.model) if best else {})
    if output.is_json:
        output.line(to_json(report) | ({"best": choice.variant, "best_is_measured": choice.measured} if best else {}))
    elif output.format is Format.QUIET and best:
        if choice.variant is not None:
            output.show(escape(choice.variant))
    else:
        quiet = output.format is Format.QUIET
        output.show(render_fit(report, output.data.width, choice.variant if best else None, notes=not quiet))
        if explain:
            output.show("")
            output.show(render_formulas(report))
        if not quiet:
            for line in commands(report, choice.variant):
                output.show(escape(line))
        if best:
            output.show(render_choice(choice.variant, choice.sentence))
    return Exit.OK if any(row.fits for row in report.rows) else Exit.DOES_NOT_FIT


def _kv_types(text: str) -> tuple[str, str]:
    """Of K and of V: "q8_0" for both, or "f16,q8_0"."""
    types = [one.strip().lower() for one in text.split(",")]
    if len(types) > 2 or not all(types):
        raise typer.BadParameter(f"--kv-type {text!r} is neither one type nor two, K,V; write it as f16,q8_0")
    return types[0], types[-1]
