"""`sweep int8`: an int8 checkpoint, made by a recipe, in the format that vLLM reads (compressed-tensors)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sweep.cli import common_options as common
from sweep.cli.exits import Exit
from sweep.cli.expert_table import expert_table
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output
from sweep.cli.progress_bars import share_bar
from sweep.format import size

if TYPE_CHECKING:
    from sweep.commands import int8 as command

EXAMPLES = """
Quantize the built-in model with SmoothQuant and per-token scales:
  $ sweep int8 micro --recipe sq-ph-dyn --out micro-int8
Quantize only the weights, which needs no calibration:
  $ sweep int8 Qwen/Qwen3-4B --recipe w8a16 --out Qwen3-4B-w8a16
Calibrate with your own text, on a GPU:
  $ sweep int8 Qwen/Qwen3-4B --calibration text.txt --device cuda --out int8
Quantize a speech model, calibrated with a directory of recordings:
  $ sweep int8 openai/whisper-base --calibration speech --out whisper-int8
"""


def int8(
    model: str = common.model(common.BUILT_IN, common.CHECKPOINT, common.HUB_ID),
    recipe: str = typer.Option(
        "sq-ph-dyn",
        "--recipe",
        metavar="NAME|FILE",
        help="The int8 recipe: sq, sq-ph, sq-ph-dyn, w8a8, w8a8-dyn, w8a16, sq-ph-fc2 (for Whisper), or a TOML file "
        "(see docs/int8.md).",
        rich_help_panel=Panel.VARIANTS,
    ),
    out: Path = typer.Option(
        ...,
        "--out",
        metavar="DIR",
        help="Directory to write the checkpoint to. It must be empty or not exist yet.",
        rich_help_panel=Panel.OUTPUT,
    ),
    calibration: str | None = common.int8_calibration(),
    samples: int | None = common.INT8_SAMPLES,
    length: int | None = common.INT8_LENGTH,
    parse_special: bool = common.PARSE_SPECIAL,
    language: str = common.LANGUAGE,
    device: str = common.device("cpu", "to calibrate on, layer by layer"),
    workspace: Path | None = common.WORKSPACE,
    format: Format = common.FORMAT,
) -> int:
    """Write a model as an int8 checkpoint that vLLM can load.

    A recipe says how the model is smoothed, calibrated and quantized. The directory appears under its name only when
    it is complete.
    """
    from sweep.commands import int8 as command  # loads torch and transformers, which --help does not need

    output = Output(format)
    request = command.Int8Request(
        model, recipe, out, calibration, samples, length, device, workspace, parse_special, language
    )
    with share_bar(output) as bar:
        task = bar.add_task("calibrating", total=None)
        quantized = command.quantize(
            request, output.say, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if output.is_json:
        output.line({"event": "finished", **quantized.to_json()})
    else:
        _show(quantized, output)
    return Exit.OK


def _show(quantized: command.WrittenCheckpoint, output: Output) -> None:
    from int8.expert_tokens import FEW_TOKENS  # loads torch

    calibration = quantized.calibration
    text = "no text"
    if calibration.text is not None:
        text = f"{calibration.samples} x {calibration.length} tokens of {calibration.text}"
    output.show(f"{quantized.path}: {quantized.recipe.name}, {size(quantized.bytes)}, calibrated with {text}")
    if quantized.experts:
        output.show(expert_table(quantized.experts, FEW_TOKENS))
