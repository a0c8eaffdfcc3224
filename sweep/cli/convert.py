"""`sweep convert`: GGUF files of any quants from a checkpoint, in one pass, and checkpoints that torch quantizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from converters.errors import InputError
from sweep.cli import common_options as common
from sweep.cli.exits import Exit
from sweep.cli.expert_table import expert_table
from sweep.cli.help import Panel
from sweep.cli.mix_output import show_mix
from sweep.cli.output import Format, Output
from sweep.cli.parsers import byte_count, comma_list
from sweep.cli.progress_bars import bytes_bar, share_bar
from sweep.format import size
from sweep.variant_name import variant_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sweep.commands import convert as command
    from sweep.commands.best_mix import BestMix
    from sweep.commands.convert_checkpoints import PlannedCheckpoint
    from sweep.commands.convert_request import ConvertRequest
    from sweep.methods.checkpoint import CalibrationFigures

EXAMPLES = """
Write two quants of the built-in model to the folder files:
  $ sweep convert micro --to Q4_K_M,Q2_K_XL --out files
Print the sizes of a public model's files without downloading it:
  $ sweep convert Qwen3.5-397B-A17B --to Q4_K_M,Q2_K_XL --dry-run
Compute an importance matrix from a text and quantize with it:
  $ sweep convert micro --to IQ2_XXS --imatrix auto --calibration text.txt
Quantize with GPTQ to a checkpoint that vLLM reads, on a GPU:
  $ sweep convert Qwen/Qwen3-4B --to gptq:w4g128 --device cuda --out models
Write a vision-language model and its projector file, to read images:
  $ sweep convert Qwen/Qwen3-VL-2B-Instruct --to Q4_K_M --mmproj F16
Choose the types of some tensors yourself:
  $ sweep convert Qwen/Qwen3-4B --to Q4_K_M --tensor-type attn_v=Q8_0
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
    to: str | None = typer.Option(
        None,
        "--to",
        metavar="LIST",
        help="What to write, separated by commas: quants such as Q4_K_M,Q2_K_XL, and variants that torch quantizes, "
        "such as gptq:w4g128 or int8:sq-ph-dyn. Or a size, such as 5.5GiB or 4.5bpw: the best mix of types that is not "
        "larger, which is measured first.",
        show_default="required without --mmproj",
        rich_help_panel=Panel.VARIANTS,
    ),
    mmproj: str | None = typer.Option(
        None,
        "--mmproj",
        metavar="LIST",
        help="Also write the vision tower of a vision-language model as projector files of these types, such as "
        "F16 or F16,Q8_0. llama.cpp reads images with such a file.",
        show_default="only the text model",
        rich_help_panel=Panel.VARIANTS,
    ),
    tensor_type: list[str] = typer.Option(
        [],
        "--tensor-type",
        metavar="REGEX=TYPE",
        help="Type of the tensors whose names match the regular expression, such as attn_v=Q8_0, for the quants in "
        "--to. Can be repeated; the first rule that matches a tensor decides. --to mix:FILE.toml has a file of rules.",
        show_default="as llama.cpp decides",
        rich_help_panel=Panel.VARIANTS,
    ),
    mix_types: str | None = typer.Option(
        None,
        "--mix-types",
        metavar="TYPES",
        help="With a size in --to: the types that the mix may use.",
        show_default="Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,Q8_0",
        rich_help_panel=Panel.VARIANTS,
    ),
    each_tensor: bool = typer.Option(
        False,
        "--each-tensor",
        help="With a size in --to: measure and choose each tensor by itself. This takes several times as long.",
        show_default="the same tensors of a third of the layers together",
        rich_help_panel=Panel.VARIANTS,
    ),
    perplexity: Path | None = common.perplexity("the KL divergence of a mix for a size in --to and of its rivals"),
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
    requantize: bool = common.REQUANTIZE,
    repair: bool = typer.Option(
        False,
        "--repair",
        help="Repair known faults of a GGUF file from another program, such as Ollama's names of tensors.",
        show_default="a file that llama.cpp cannot load is rejected",
        rich_help_panel=Panel.MODEL,
    ),
    imatrix: str | None = common.IMATRIX,
    calibration: Path | None = common.calibration(
        "for --imatrix auto and to calibrate gptq:, int8: and other variants",
        ", wikitext-2 (its training split, not for --imatrix)",
        f"{common.OWN_TEXT}, otherwise wikitext-2; --imatrix auto needs a file then",
    ),
    samples: int | None = common.samples("as many as the text has; at most 128, for int8 variants 1000"),
    length: int | None = common.sample_length("2048, or the model's context if that is smaller; 256 for int8 variants"),
    parse_special: bool = common.PARSE_SPECIAL,
    dequantized: bool = typer.Option(
        False,
        "--dequantized",
        help="Write the values of variants such as hqq:w4g64 as a BF16 checkpoint. Every program loads it, but it "
        "is as large as the original.",
        show_default="variants that no other program reads are rejected",
        rich_help_panel=Panel.VARIANTS,
    ),
    device: str | None = common.device(None, "to quantize gptq:, int8: and other variants on", "cpu"),
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
    workspace: Path | None = common.WORKSPACE,
    dry_run: bool = common.DRY_RUN,
    format: Format = common.FORMAT,
) -> int:
    """Write a model as GGUF files, one for each quant, and as checkpoints that torch quantizes.

    The files are named MODEL-QUANT.gguf, and projector files mmproj-MODEL-TYPE.gguf. A file appears under its name
    only when it is complete and llama.cpp can load it.

    Variants that torch quantizes, such as gptq:w4g128, become directories, such as MODEL-gptq-w4g128, in the format
    compressed-tensors, which vLLM and transformers read. See docs/quants.md.
    """
    from sweep.commands import convert as command  # loads numpy and libllama, which --help does not need
    from sweep.commands.convert_checkpoints import write_checkpoints
    from sweep.commands.convert_request import ConvertRequest

    output = Output(format)
    request = ConvertRequest(
        model=model,
        variants=variant_names(to or ""),
        mmproj=comma_list(mmproj) or (),
        tensor_types=tuple(tensor_type),
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
        samples=samples,
        length=length,
        device=device,
        workspace=workspace,
        dequantized=dequantized,
    )
    mix = _best_mix(request, comma_list(mix_types), each_tensor, perplexity, output)
    if mix is not None:
        request = replace(request, variants=(mix.quant,), tensor_types=(), calibration=mix.calibration)
    conversion = command.prepare(request, output.say)
    planned = conversion.checkpoints.planned
    if output.is_json:
        output.line({"event": "plan", "model": conversion.name, **_described(conversion, planned)})
    if dry_run:
        if not output.is_json:
            _show(conversion, planned, output)
        return Exit.OK
    if conversion.files or conversion.projectors:
        with bytes_bar(output) as bar:
            task = bar.add_task("planning", total=None)
            command.write(
                conversion,
                output.say,
                lambda done: bar.update(
                    task, completed=done.done_bytes, total=done.total_bytes, description=done.tensor
                ),
            )
    failed: dict[str, str] = {}
    if planned:
        with share_bar(output) as bar:
            task = bar.add_task("quantizing", total=None)
            planned, failed = write_checkpoints(
                request,
                conversion.checkpoints,
                conversion.source,
                output.say,
                lambda name, done, total: bar.update(task, completed=done, total=total, description=name),
            )
    if output.is_json:
        output.line({"event": "finished", **_described(conversion, planned), "failed": failed})
    else:
        _show(conversion, planned, output)
    if mix is not None:
        mix.save_recipe(out / f"{conversion.name}-{mix.budget.text}.toml")
        show_mix(mix, output)
    return Exit.JOBS_FAILED if failed else Exit.OK


def _best_mix(
    request: ConvertRequest,
    types: tuple[str, ...] | None,
    each: bool,
    text: Path | None,
    output: Output,
) -> BestMix | None:
    """The best mix of the size in --to; None if --to has no size. Raises InputError."""
    from sweep.cli.run_display import RunDisplay
    from sweep.commands import best_mix as command  # loads scipy
    from sweep.mixing.budget import budget_of

    budget = budget_of(request.variants)
    if budget is None:
        for option, given in (("--mix-types", types), ("--each-tensor", each), ("--perplexity", text)):
            if given:
                raise InputError(f"{option} is for a size in --to, such as --to 5.5GiB")
        return None
    if request.dry_run:
        raise InputError(f"--to {budget.text}: the mix is known only after measuring; leave --dry-run out")
    asked = command.MixRequest(
        model=request.model,
        budget=budget,
        types=command.checked_types(types),
        each=each,
        rules=request.tensor_types,
        requantize=request.requantize,
        imatrix=request.imatrix,
        calibration=request.calibration,
        perplexity=text,
        workspace=request.workspace,
        out=None if request.replace else request.out,
    )
    return command.find_best_mix(asked, output.say, lambda sweep: RunDisplay(sweep.plan, output))


def _described(conversion: command.Conversion, checkpoints: Sequence[PlannedCheckpoint]) -> dict[str, Any]:
    return {
        "files": [file.to_json() for file in conversion.files],
        "projectors": [file.to_json() for file in conversion.projectors],
        "checkpoints": [checkpoint.to_json() for checkpoint in checkpoints],
    }


def _show(conversion: command.Conversion, checkpoints: Sequence[PlannedCheckpoint], output: Output) -> None:
    if conversion.files or conversion.projectors:
        _show_files(conversion, output)
    if checkpoints:
        _show_checkpoints(checkpoints, output)


def _show_checkpoints(checkpoints: Sequence[PlannedCheckpoint], output: Output) -> None:
    """Print the directories with their sizes, and what they were calibrated with."""
    table = Table(box=None, pad_edge=False)
    for column in ("directory", "bits/weight", "bytes", "size"):
        table.add_column(column, justify="left" if column == "directory" else "right")
    for one in checkpoints:
        length = f"{'' if one.header_exact else '~'}{one.file_bytes:,}"
        table.add_row(str(one.path), f"{one.bits_per_weight:.3f}", length, size(one.file_bytes))
    output.show(table)
    if not all(one.header_exact for one in checkpoints):
        output.show("~ These are the bytes of the tensors. The headers of the files are not counted.")
    for one in checkpoints:
        if one.calibration is not None:
            _show_calibration(one.variant, one.calibration, output)


def _show_calibration(variant: str, calibration: CalibrationFigures, output: Output) -> None:
    from int8.expert_tokens import FEW_TOKENS  # loads torch

    text = "no text"
    if calibration.text is not None:
        text = f"{calibration.samples} x {calibration.length} tokens of {calibration.text}"
    output.show(f"{variant}: calibrated with {text}")
    if calibration.note is not None:
        output.show(calibration.note)
    if calibration.expert_tokens:
        output.show(expert_table(calibration.experts(FEW_TOKENS), FEW_TOKENS))


def _show_files(conversion: command.Conversion, output: Output) -> None:
    """Print the files with their sizes, and how many tensors have each type."""
    table = Table(box=None, pad_edge=False)
    for column in ("file", "bits/weight", "bytes", "size", "tensors by type"):
        table.add_column(column, justify="left" if column in ("file", "tensors by type") else "right")
    files = (*conversion.files, *conversion.projectors)
    for file in files:
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
    if not all(file.size.header_exact for file in files):
        header = size(max(file.size.header_bytes for file in files))
        output.show(
            f"~ The tensors are exact. The header, about {header}, is estimated, because the tokenizer is not on this "
            "machine."
        )
