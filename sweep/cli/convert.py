"""`sweep convert`: a checkpoint to GGUF files of any quants, in one pass, with exact sizes before the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from sweep.cli.amounts import byte_count
from sweep.cli.exits import Exit
from sweep.cli.output import FORMAT, Format, Output
from sweep.format import size

if TYPE_CHECKING:
    from sweep.commands import convert as command


def convert(
    model: str = typer.Argument("micro", help="A built-in model, a directory, a .gguf file or a hub id."),
    to: str = typer.Option(..., "--to", help="Quants by comma, such as Q4_K_M,Q2_K_XL."),
    out: Path = typer.Option(Path(), "--out", help="The directory that the files are written to."),
    mtp: bool = typer.Option(True, "--mtp/--no-mtp", help="Multi-token prediction layers, where the model has them."),
    pre_tokenizer: str | None = typer.Option(
        None, "--pre-tokenizer", help="llama.cpp's name of it, where tokenizer.json does not tell: qwen2 or qwen35."
    ),
    requantize: bool = typer.Option(False, "--requantize", help="Take a quantized .gguf all the same; it loses twice."),
    imatrix: str | None = typer.Option(
        None, "--imatrix", metavar="FILE|auto", help="An importance matrix as llama-imatrix writes it; auto makes one."
    ),
    calibration: Path | None = typer.Option(None, "--calibration", help="The text that --imatrix auto lets it read."),
    split_max_size: int | None = typer.Option(
        None, "--split-max-size", parser=byte_count, metavar="SIZE", help="Files in parts of at most so much: 40G."
    ),
    memory_budget: int | None = typer.Option(
        None, "--memory-budget", parser=byte_count, metavar="SIZE", help="What the export may take of RAM: 512MiB."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print exact sizes and types, and write nothing."),
    format: Format = FORMAT,
) -> int:
    """Write a model as GGUF files named {model}-{QUANT}.gguf; every file is complete or not there at all."""
    from sweep.commands import convert as command  # loads numpy and libllama, which --help does not need

    output = Output(format)
    wanted = command.ConvertRequest(
        model=model,
        quants=tuple(name.strip() for name in to.split(",") if name.strip()),
        out=out,
        mtp=mtp,
        pre_tokenizer=pre_tokenizer,
        requantize=requantize,
        imatrix=imatrix,
        calibration=calibration,
        split_max_bytes=split_max_size,
        memory_budget=memory_budget,
        dry_run=dry_run,
    )
    conversion = command.prepare(wanted, output.say)
    if output.is_json:
        output.line({"event": "plan", "model": conversion.name, "files": [file.to_json() for file in conversion.files]})
    if dry_run:
        if not output.is_json:
            _show(conversion, output)
        return Exit.OK
    with Progress(
        TextColumn("{task.description:32}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=output.messages,
        transient=True,
        disable=not output.shows_progress,
    ) as progress:
        bar = progress.add_task("planning", total=None)
        command.write(
            conversion,
            output.say,
            lambda at: progress.update(bar, completed=at.done_bytes, total=at.total_bytes, description=at.tensor),
        )
    if output.is_json:
        output.line({"event": "finished", "files": [file.to_json() for file in conversion.files]})
    else:
        _show(conversion, output)
    return Exit.OK


def _show(conversion: command.Conversion, output: Output) -> None:
    """The files with their exact sizes and how many tensors have which type."""
    table = Table(box=None, pad_edge=False)
    for column in ("file", "bits/weight", "bytes", "size", "tensors by type"):
        table.add_column(column, justify="left" if column in ("file", "tensors by type") else "right")
    for file in conversion.files:
        census = ", ".join(f"{count} {name}" for name, count in file.size.census.items())
        length = f"{'' if file.size.header_exact else '~'}{file.size.file_bytes:,}"
        parts = f" (1 of {len(file.paths)})" if len(file.paths) > 1 else ""
        table.add_row(
            f"{file.paths[0]}{parts}", f"{file.size.bits_per_weight:.3f}", length, size(file.size.file_bytes), census
        )
    output.show(table)
    if conversion.mtp_bytes:
        output.show(
            f"of which multi-token prediction layers: {size(conversion.mtp_bytes)} in {conversion.files[0].size.quant}"
        )
    if not all(file.size.header_exact for file in conversion.files):
        header = size(max(file.size.header_bytes for file in conversion.files))
        output.show(f"~ tensors are exact; the header, about {header}, is estimated: its tokenizer is not here.")
