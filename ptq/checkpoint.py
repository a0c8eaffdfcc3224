"""Reading a quantized checkpoint that ptq.quantize wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from converters.checkpoint import Checkpoint, read_json
from converters.errors import InputError
from int8.checkpoint_files import read_tensors, take_float_tensors
from int8.mapped_model import is_tower
from int8.model import decoder_of
from int8.skeleton import skeleton
from ptq.ends import fill_ends
from ptq.gptq import MORE_DAMP
from ptq.layer_files import DEQUANTIZED_REPORT_FILE, OWN_TYPE, REPORT_FILE, attach_online, fill
from ptq.recipe import PtqRecipe, from_json


def is_ptq(path: Path) -> bool:
    """Whether `path` is a directory that `ptq.quantize` wrote."""
    return (path / REPORT_FILE).is_file()


def read_report(path: Path, dequantized: bool = False) -> dict[str, Any]:
    """The report of a quantized checkpoint: its recipe, its calibration, its layers. Raises InputError."""
    name = DEQUANTIZED_REPORT_FILE if dequantized else REPORT_FILE
    if not (path / name).is_file():
        raise InputError(f"{path}: has no {name}; give a directory that bitsweep quantized")
    report = read_json(path / name)
    if not all(isinstance(report.get(key), dict) for key in ("recipe", "calibration", "layers")):
        raise InputError(f"{path / name}: is incomplete; quantize the model again")
    return report


def read_expert_tokens(report: Mapping[str, Any]) -> dict[str, list[int]]:
    """The calibration tokens of each expert, by the number of their layer, from a report; without layers that have no
    experts. Empty if no text was read."""
    tokens = {path: one["expert_tokens"] for path, one in report["layers"].items()}
    return {path.rpartition(".")[2]: counts for path, counts in tokens.items() if counts}


def damping_note(report: Mapping[str, Any]) -> str | None:
    """Which linear layers needed more damping than the recipe has, from a report; None if none did."""
    damped = [
        f"{layer}.{name}"
        for layer, one in report["layers"].items()
        for name, linear in one["linears"].items()
        if linear["damped_more"]
    ]
    if not damped:
        return None
    more = f" (and {len(damped) - 1} more)" if len(damped) > 1 else ""
    return f"{damped[0]}{more}: H was positive definite only with {MORE_DAMP} times the damp; use more samples"


def read_recipe(path: Path) -> PtqRecipe:
    """The recipe of a quantized checkpoint. Raises InputError."""
    return from_json(read_report(path)["recipe"], str(path / REPORT_FILE))


@dataclass(frozen=True)
class Summary:
    """A quantized checkpoint in figures.

    `file_bytes` of all its files of tensors; `bits_per_weight`: all bits of all tensors per weight of the model,
    without its vision tower; `calibration`: see `Calibration`; `error`: the mean relative error of the outputs of its
    linear layers in the decoder, None if it was quantized without a text; `damping`: see `damping_note`.
    """

    file_bytes: int
    bits_per_weight: float
    calibration: dict[str, Any]
    error: float | None
    damping: str | None = None


def read_summary(path: Path) -> Summary:
    """The summary of a quantized checkpoint. Raises InputError."""
    report = read_report(path)
    layers = {path: layer for path, layer in report["layers"].items() if not is_tower(f"{path}.")}
    linears = [one for layer in layers.values() for one in layer["linears"].values()]
    with Checkpoint.open(path) as checkpoint:
        tensors = [tensor for tensor in checkpoint.tensors.values() if not is_tower(tensor.name)]
    quantized = {f"{path}.{name}" for path, layer in layers.items() for name in layer["linears"]}
    weights = sum(one["rows"] * one["columns"] for one in linears)
    for tensor in tensors:
        module, _, kind = tensor.name.rpartition(".")
        if module not in quantized and kind not in ("weight_scale", "weight_shape"):
            weights += math.prod(tensor.shape) * (4 if kind == "weight_packed" else 1)  # embeddings of 8 bits
    errors = [one["error"] for one in linears if one["error"] is not None]
    return Summary(
        file_bytes=sum(file.stat().st_size for file in sorted(path.glob("*.safetensors"))),
        bits_per_weight=8 * sum(tensor.nbytes for tensor in tensors) / weights,
        calibration=report["calibration"],
        error=sum(errors) / len(errors) if errors else None,
        damping=damping_note(report),
    )


def _config(path: Path) -> PretrainedConfig:
    """The config, with the model type that transformers knows."""
    table = read_json(path / "config.json")
    table.pop("quantization_config", None)
    try:
        return AutoConfig.for_model(str(table.pop("model_type", "")).removeprefix(OWN_TYPE), **table)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / 'config.json'}: {' '.join(str(error).split())[:300]}") from error


def load(path: Path, *, images: bool = False) -> tuple[PreTrainedModel, PtqRecipe]:
    """A quantized checkpoint with dequantized weights on the CPU, with transformers' interface; and its recipe.

    With `images`, it has its vision tower. Raises InputError for a directory that `ptq.quantize` did not write, for
    tensors that are missing or contradict the config, and if there should be a vision tower but is none.
    """
    recipe = read_recipe(path)
    tensors = read_tensors(path, tower=images)
    model = skeleton(path, _config(path), tower=images)
    fill_ends(model, tensors, recipe, path)
    decoder = decoder_of(model)
    for layer in decoder.layers:
        attach_online(layer, decoder.model_type, recipe)
    fill(model, "", tensors, recipe, path)
    take_float_tensors(model, tensors, path)
    return model.eval(), recipe
