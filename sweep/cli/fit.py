"""`sweep fit`: which variants of a model fit on which GPUs, computed without its weights."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from sweep.cli import common_options as common
from sweep.cli.exits import Exit
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output
from sweep.cli.parsers import export as parse_export
from sweep.cli.parsers import image_size, kv_cache
from sweep.cli.parsers import target as parse_target
from sweep.cli.parsers import tolerance as parse_tolerance
from sweep.variant_name import variant_names

EXAMPLES = """
Which quants of a public model fit on one GPU:
  $ sweep fit Qwen3.6-27B --gpu "RTX 4090"
The same for two GPUs, a long context and a smaller KV cache:
  $ sweep fit Qwen3.6-27B --gpu "2xRTX 4090" --ctx 65536 --kv-type q8_0
A mixture of experts on a small GPU, with its experts in RAM:
  $ sweep fit Qwen3.6-35B-A3B --gpu "RTX 3060 12GB" --ram 32GiB
The model's own layers for multi-token prediction as the draft:
  $ sweep fit Qwen3.6-27B --gpu "RTX 4090" --variants Q5_K_M --draft mtp
A vision-language model that reads four images of 1280 x 960 pixels:
  $ sweep fit Qwen3-VL-8B-Instruct --gpu "RTX 4090" --image 4x1280x960
How each figure is computed:
  $ sweep fit Qwen3.6-27B --gpu 12GiB --explain
The best variant that reaches this speed with at most this KL divergence:
  $ sweep fit Qwen3-8B --gpu "RTX 3060 12GB" --min-tps 30 --max-kld 0.02
Print only the name of the best variant that fits, for a script:
  $ sweep fit micro --gpu 24GiB --best --format quiet
"""


def fit(
    model: str = common.model(
        common.BUILT_IN,
        common.CHECKPOINT,
        "a config.json",
        common.GGUF_FILE_OR_HUB_FILE,
        common.HUB_ID,
        common.GGUF_REPOSITORY,
        "the name of a public model (Qwen3.6-27B)",
    ),
    variants: str | None = typer.Option(
        None,
        "--variants",
        metavar="LIST",
        help="Variants to check, separated by commas: quants, int8:RECIPE, gguf:FILE or hub:OWNER/REPO/FILE.gguf.",
        show_default="all quants and all built-in int8 recipes",
        rich_help_panel=Panel.VARIANTS,
    ),
    gpu: list[str] | None = common.gpu(
        "GPU that the variants have to fit on",
        "the GPUs of this machine with their free memory",
    ),
    ram: str | None = typer.Option(
        None,
        "--ram",
        metavar="SIZE",
        help="RAM that a model may use (64GiB; 64GB means the same), for layers and experts that do not fit on the "
        "GPUs.",
        show_default="this machine's free RAM; with simulated GPUs, as much as is needed",
        rich_help_panel=Panel.MEMORY,
    ),
    ram_bandwidth: str | None = typer.Option(
        None,
        "--ram-bandwidth",
        metavar="RATE",
        help="Bandwidth of the RAM (60GB/s), which decides the speed of what is in RAM. `sweep doctor` measures it.",
        show_default="51.2GB/s, two channels of DDR4-3200",
        rich_help_panel=Panel.MEMORY,
    ),
    reserve: str | None = typer.Option(
        None,
        "--reserve",
        metavar="SIZE",
        help="Memory to leave free on each GPU (2GiB); without a GPU, in RAM.",
        show_default="1 GiB, and an allowance for the driver",
        rich_help_panel=Panel.MEMORY,
    ),
    ctx: int | None = common.context(1),
    kv_type: str | None = common.kv_type("Type of the KV cache", "f16; the advice may choose q8_0"),
    parallel: int = typer.Option(
        1,
        "--parallel",
        min=1,
        max=256,
        help="Number of sequences that are processed at the same time, each with its own context of --ctx tokens.",
        rich_help_panel=Panel.MEMORY,
    ),
    ubatch: int = typer.Option(
        512, "--ubatch", min=1, help="Physical batch size, in tokens.", rich_help_panel=Panel.MEMORY
    ),
    flash_attn: bool | None = typer.Option(
        None,
        "--flash-attn/--no-flash-attn",
        help="Switch flash attention on or off.",
        show_default="llama.cpp decides",
        rich_help_panel=Panel.MEMORY,
    ),
    projector: bool = typer.Option(
        False,
        "--projector",
        help="Add the vision tower of a model that has one.",
        show_default="only the text decoder",
        rich_help_panel=Panel.MEMORY,
    ),
    mmproj: str | None = typer.Option(
        None,
        "--mmproj",
        metavar="TYPE|FILE",
        help="Add the vision tower with a projector file of this type (Q8_0), or with this .gguf file.",
        show_default="with --projector or --image: F16, or the file next to a GGUF file",
        rich_help_panel=Panel.MEMORY,
    ),
    image: list[str] | None = typer.Option(
        None,
        "--image",
        metavar="[NUMx]WIDTHxHEIGHT",
        help="Add the vision tower, and images of this size in pixels to the context of each sequence: 1280x960, or "
        "4x1280x960 for four images. It can be given several times.",
        show_default="no images",
        rich_help_panel=Panel.MEMORY,
    ),
    draft: str | None = typer.Option(
        None,
        "--draft",
        metavar="mtp|MODEL",
        help="Count speculative decoding too: mtp, the model's own layers for multi-token prediction, or a second, "
        "smaller MODEL (a checkpoint is counted as Q8_0).",
        show_default="no draft",
        rich_help_panel=Panel.MEMORY,
    ),
    offload: bool = typer.Option(
        True,
        "--offload/--no-offload",
        help="For a variant that does not fit, find out how it runs with some layers or experts in RAM.",
        rich_help_panel=Panel.MEMORY,
    ),
    best: bool = typer.Option(
        False,
        "--best",
        help="With --format quiet, print only the name of the variant to run. With --format json, also print it in "
        "the field best.",
        rich_help_panel=Panel.OUTPUT,
    ),
    export: str | None = common.EXPORT,
    force: bool = common.FORCE,
    explain: bool = typer.Option(
        False,
        "--explain",
        help="Also print every figure in bytes, with its formula and its source.",
        rich_help_panel=Panel.OUTPUT,
    ),
    min_tps: str | None = common.MIN_TPS,
    max_kld: str | None = common.MAX_KLD,
    min_recovery: str | None = common.MIN_RECOVERY,
    tolerance: str | None = common.TOLERANCE,
    workspace: Path | None = common.WORKSPACE,
    format: Format = common.FORMAT,
) -> int:
    """Compute which variants of a model fit on which GPUs.

    llama.cpp itself computes the memory of each variant. This needs only the model's config: no weights are downloaded
    or read. `sweep gpus` lists the GPUs that are known by name.
    """
    from sweep.analysis.advice import to_json as advice_to_json
    from sweep.analysis.fit_candidates import fit_candidates
    from sweep.analysis.measured import measurements
    from sweep.commands.fit import FitQuestion, advise_on
    from sweep.fit.fit_report import FitOptions, Verdict, to_json
    from sweep.fit.hardware import parse_devices, with_ram, with_reserve
    from sweep.fit.local_devices import local_devices
    from sweep.report.advice import command_lines, render_advice
    from sweep.report.fit import commands, render_fit, render_formulas
    from sweep.workspace import Workspace, default_root

    output = Output(format)
    parse_export(export)
    cache = kv_cache(kv_type)
    options = FitOptions(
        context=ctx or 0,
        kv_type_k=cache.k,
        kv_type_v=cache.v,
        parallel=parallel,
        ubatch=ubatch,
        flash_attention=flash_attn,
        projector=projector,
        mmproj=mmproj or "",
        images=tuple(image_size(one) for one in image or ()),
        draft=draft or "",
        offload="auto" if offload else "none",
    )
    devices = with_ram(parse_devices(gpu) if gpu else local_devices(), ram, ram_bandwidth)
    devices = with_reserve(devices, reserve)
    target = parse_target(min_tps, max_kld, min_recovery)
    question = FitQuestion(model, variant_names(variants or ""), devices, options, kv_type is None, target)
    report = question.answer()
    space = Workspace((workspace or default_root()).expanduser().absolute())
    measured = measurements(space, report.model, parse_tolerance(tolerance))
    advice = advise_on(question, report, measured)
    chosen = advice.variant
    if output.is_json:
        named = {"best": chosen, "best_is_measured": advice.confidence == "measured"} if best else {}
        answer = to_json(report)
        for row, one in zip(answer["rows"], fit_candidates(report, measured), strict=True):
            row["expected_kld"] = None if one.kld is None else vars(one.kld)
            row["tokens_per_s"] = None if row["verdict"] == Verdict.DOES_NOT_FIT else one.tokens_per_s
        output.line(answer | {"advice": advice_to_json(advice, model, space.arguments)} | named)
    elif output.format is Format.QUIET and best:
        if chosen is not None:
            output.show(escape(chosen))
        elif target:
            output.warn(advice.reason)
    else:
        quiet = output.format is Format.QUIET
        output.show(render_fit(report, output.data.width, chosen, notes=not quiet))
        if explain:
            output.show("")
            output.show(render_formulas(report))
        if not quiet:
            for line in commands(report, advice.pick):
                output.show(escape(line))
            output.show(render_advice(advice))
            for line in command_lines(advice):
                output.show(escape(line))
    if export is not None:
        from sweep.cli.export_output import write_export

        write_export(export, advice, output, force)
    if target:
        return Exit.OK if advice.pick is not None else Exit.DOES_NOT_FIT
    return Exit.OK if any(row.fits for row in report.rows) else Exit.DOES_NOT_FIT
