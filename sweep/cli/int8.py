"""`sweep int8`: a checkpoint to an int8 one by a recipe, in the format that vLLM reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sweep.cli.exits import Exit
from sweep.cli.output import FORMAT, WORKSPACE, Format, Output
from sweep.format import size

if TYPE_CHECKING:
    from sweep.commands import int8 as command


def int8(
    model: str = typer.Argument("micro", help="A built-in model, a directory or a hub id."),
    recipe: str = typer.Option(
        "sq-ph-dyn",
        "--recipe",
        metavar="NAME|FILE.toml",
        help="sq, sq-ph, sq-ph-dyn, w8a8, w8a8-dyn, w8a16, or a file.",
    ),
    out: Path = typer.Option(..., "--out", help="The directory to write; it must not be there yet, or be empty."),
    calibration: str | None = typer.Option(
        None,
        "--calibration",
        metavar="FILE|NAME",
        help="The text to calibrate with.",
        show_default="micro's own, else wikitext-2",
    ),
    samples: int | None = typer.Option(
        None, "--samples", min=1, help="Pieces of the text.", show_default="1000, or as many as it gives"
    ),
    length: int | None = typer.Option(None, "--length", min=8, help="Tokens of a piece.", show_default="256"),
    device: str = typer.Option("cpu", "--device", help="Where layers are calibrated, one by one: cpu, cuda, cuda:1."),
    workspace: Path | None = WORKSPACE,
    format: Format = FORMAT,
) -> int:
    """Write a model with int8 weights, calibrated and smoothed by a recipe; it is complete or not there at all."""
    from sweep.commands import int8 as command  # loads torch and transformers, which --help does not need

    output = Output(format)
    wanted = command.Int8Request(model, recipe, out, calibration, samples, length, device, workspace)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=output.messages,
        transient=True,
        disable=not output.shows_progress,
    ) as progress:
        bar = progress.add_task("calibrating", total=None)
        quantized = command.quantize(
            wanted, output.say, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    if output.is_json:
        output.line({"event": "finished", **quantized.to_json()})
    else:
        _show(quantized, output)
    return Exit.OK


def _show(quantized: command.WrittenCheckpoint, output: Output) -> None:
    calibration = quantized.calibration
    read = "no text"
    if calibration.text is not None:
        read = f"{calibration.samples} x {calibration.length} tokens of {calibration.text}"
    output.show(f"{quantized.path}: {quantized.recipe.name}, {size(quantized.bytes)}, calibrated with {read}")
    if quantized.experts:
        table = Table(box=None, pad_edge=False)
        for column in ("layer", "experts", "fewest tokens", "most tokens", "next to none"):
            table.add_column(column, justify="right")
        for row in quantized.experts:
            table.add_row(*map(str, row))
        output.show(table)
