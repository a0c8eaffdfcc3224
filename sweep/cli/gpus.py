"""`sweep gpus`: the GPUs that --gpu knows by name."""

from __future__ import annotations

import typer
from rich.table import Table

from sweep.cli import common_options as common
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output

EXAMPLES = """
List every GPU that is known by name:
  $ sweep gpus
List only some of them:
  $ sweep gpus "RTX 40"
"""


def gpus(
    text: str | None = typer.Argument(
        None,
        metavar="NAME",
        help="List only GPUs with these words, or beginnings of words, in their name or series.",
        show_default="all",
        rich_help_panel=Panel.OUTPUT,
    ),
    format: Format = common.FORMAT,
) -> None:
    """List the GPUs that --gpu knows by name.

    For each GPU: its memory, the part of it that a program can use, and the memory bandwidth.
    """
    from converters.errors import InputError
    from presets import gpus as data
    from sweep.format import size

    output = Output(format)
    found = list(data.gpus().values()) if text is None else data.search_gpus(text)
    if not found:
        similar = ", ".join(data.similar_gpu_names(str(text))) or "none"
        raise InputError(f"{text}: no GPU with this name is known; similar names: {similar}")
    if output.is_json:
        for gpu in found:
            output.line(
                {
                    "gpu": gpu.name,
                    "series": gpu.series,
                    "kind": gpu.kind,
                    "devices": gpu.devices,
                    "memory_bytes": gpu.memory_bytes,
                    "usable_bytes": gpu.usable_bytes,
                    "usable_known": gpu.usable_known,
                    "bandwidth_bytes_per_s": gpu.bandwidth,
                    "source": gpu.source,
                }
            )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("GPU", "memory", "usable", "GB/s", "backend"):
        table.add_column(column, justify="right" if column in ("memory", "usable", "GB/s") else "left", no_wrap=True)
    series = ""
    for gpu in found:
        if gpu.series != series:
            series = gpu.series
            table.add_section()
            table.add_row(f"[bold]{series}[/]")
        several = f" (x{gpu.devices})" if gpu.devices > 1 else ""
        usable = f"{'' if gpu.usable_known else '~'}{size(gpu.usable_bytes)}"
        speed = f"{gpu.bandwidth / 1e9:,.0f}"
        table.add_row(f"  {gpu.name}{several}", size(gpu.memory_bytes), usable, speed, gpu.kind)
    output.show(table)
    if output.format is not Format.QUIET:
        sources = dict.fromkeys(gpu.source for gpu in found)
        output.show(
            "\nMemory and bandwidth are those of one device; x2: the GPU has two. ~ estimated from other GPUs of the "
            "series. Sources:"
        )
        for source in sources:
            output.show(f"  {source}: {', '.join(dict.fromkeys(g.series for g in found if g.source == source))}")
