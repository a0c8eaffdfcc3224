"""`sweep convert`: GGUF files of any quants from a checkpoint, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from sweep.cli import common_options as common
from sweep.cli.exits import Exit
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output
from sweep.cli.parsers import byte_count, comma_list
from sweep.cli.progress_bars import bytes_bar
from sweep.format import size

if TYPE_CHECKING:
    from sweep.commands import convert as command

EXAMPLES = """
Write two quants of the built-in model to the folder files:
  $ sweep convert micro --to Q4_K_M,Q2_K_XL --out files
Print the sizes of a public model's files without downloading it:
  $ sweep convert Qwen3.5-397B-A17B --to Q4_K_M,Q2_K_XL --dry-run
Compute an importance matrix from a text and quantize with it:
  $ sweep convert micro --to IQ2_XXS --imatrix auto --calibration text.txt
Write a large file in parts of at most 40 GB:
  $ sweep convert Qwen/Qwen3-32B --to BF16 --split-max-size 40G
"""


def convert(
    model: str = common.model(
        common.BUILT_IN,
        common.CHECKPOINT,
        common.GGUF_FILE,
        common.HUB_ID,
        "the name of a public model (Qwen3.6-27B; only with --dry-run)",
    ),
    to: str = typer.Option(
        ...,
        "--to",
        metavar="LIST",
        help="Quants to write, separated by commas, such as Q4_K_M,Q2_K_XL.",
        rich_help_panel=Panel.VARIANTS,
    ),
    out: Path = typer.Option(
        Path(),
        "--out",
        metavar="DIR",
        help="Directory to write the files to. It is created if it does not exist.",
        show_default="the current directory",
        rich_help_panel=Panel.OUTPUT,
    ),
    mtp: bool = typer.Option(
        True,
        "--mtp/--no-mtp",
        help="Include or leave out the multi-token prediction (MTP) layers of a model that has them.",
        rich_help_panel=Panel.MODEL,
    ),
    pre_tokenizer: str | None = typer.Option(
        None,
        "--pre-tokenizer",
        metavar="NAME",
        help="llama.cpp's name of the pre-tokenizer: qwen2 or qwen35.",
        show_default="recognized from tokenizer.json",
        rich_help_panel=Panel.MODEL,
    ),
    requantize: bool = typer.Option(
        False,
        "--requantize",
        help="Accept a GGUF file that is already quantized. The quality losses add up.",
        show_default="such a file is rejected",
        rich_help_panel=Panel.MODEL,
    ),
    repair: bool = typer.Option(
        False,
        "--repair",
        help="Repair known faults of a GGUF file from another program, such as Ollama's names of tensors.",
        show_default="a file that llama.cpp cannot load is rejected",
        rich_help_panel=Panel.MODEL,
    ),
    imatrix: str | None = common.IMATRIX,
    calibration: Path | None = common.calibration(
        "for --imatrix auto", "", f"{common.OWN_TEXT}; other models need a file"
    ),
    parse_special: bool = common.PARSE_SPECIAL,
    split_max_size: int | None = typer.Option(
        None,
        "--split-max-size",
        parser=byte_count,
        metavar="SIZE",
        help="Split each file into parts with at most this size of tensors, such as 40G or 40GiB.",
        show_default="one file",
        rich_help_panel=Panel.OUTPUT,
    ),
    memory_budget: int | None = typer.Option(
        None,
        "--memory-budget",
        parser=byte_count,
        metavar="SIZE",
        help="Maximum RAM that the export uses, such as 512MiB. A small budget makes the export slower.",
        show_default="no limit",
        rich_help_panel=Panel.MEMORY,
    ),
    force: bool = common.FORCE,
    dry_run: bool = common.DRY_RUN,
    format: Format = common.FORMAT,
) -> int:
    """Write a model as GGUF files, one for each quant.

    The files are named MODEL-QUANT.gguf. A file appears under its name only when it is complete and llama.cpp can load
    it.
    """
    from sweep.commands import convert as command  # loads numpy and libllama, which --help does not need

    output = Output(format)
    request = command.ConvertRequest(
        model=model,
        quants=comma_list(to) or (),
        out=out,
        mtp=mtp,
        pre_tokenizer=pre_tokenizer,
        requantize=requantize,
        repair=repair,
        imatrix=imatrix,
        calibration=calibration,
        parse_special=parse_special,
        split_max_bytes=split_max_size,
        memory_budget=memory_budget,
        dry_run=dry_run,
        replace=force,
    )
    conversion = command.prepare(request, output.say)
    if output.is_json:
        output.line({"event": "plan", "model": conversion.name, "files": [file.to_json() for file in conversion.files]})
    if dry_run:
        if not output.is_json:
            _show(conversion, output)
        return Exit.OK
    with bytes_bar(output) as bar:
        task = bar.add_task("planning", total=None)
        command.write(
            conversion,
            output.say,
            lambda done: bar.update(task, completed=done.done_bytes, total=done.total_bytes, description=done.tensor),
        )
    if output.is_json:
        output.line({"event": "finished", "files": [file.to_json() for file in conversion.files]})
    else:
        _show(conversion, output)
    return Exit.OK


def _show(conversion: command.Conversion, output: Output) -> None:
    """Print the files with their sizes, and how many tensors have each type."""
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
            f"This includes multi-token prediction layers: {size(conversion.mtp_bytes)} in "
            f"{conversion.files[0].size.quant}."
        )
    if not all(file.size.header_exact for file in conversion.files):
        header = size(max(file.size.header_bytes for file in conversion.files))
        output.show(
            f"~ The tensors are exact. The header, about {header}, is estimated, because the tokenizer is not on this "
            "machine."
        )
