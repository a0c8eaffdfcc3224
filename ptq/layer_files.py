"""The files of a quantized checkpoint: one per decoder layer, written when the layer is finished, and one for the rest.

config.json, model-*.safetensors (+ index), tokenizer   as a Hugging Face checkpoint
ptq.json                                                the recipe, the calibration, and what happened to each layer

A dequantized checkpoint is an ordinary one in the model's dtype; its report is called dequantized.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from converters.atomic import AtomicFile, disk_errors
from converters.checkpoint import read_safetensors_header
from converters.errors import InputError
from int8.checkpoint_files import config_table, write_index, write_json, write_tensors
from int8.fakequant import replace_linear
from int8.model import Decoder, has_tied_head
from ptq.ends import end_tensors
from ptq.grid import GridWeight
from ptq.layer import QuantizedLayer, named_weights
from ptq.linear import RoundedInputLinear
from ptq.recipe import PtqRecipe
from ptq.rotation import attach_rotations, keep_rotation, online_modules, rotation_of
from ptq.rounding import QuantizedWeight
from ptq.stored_weight import from_tensors, quantization_config, to_tensors, values_in_model

REPORT_FILE, DEQUANTIZED_REPORT_FILE = "ptq.json", "dequantized.json"
OWN_TYPE = "bitsweep-"
"""Before the model type in config.json if no other program can read the weights, so that they all refuse to."""


@dataclass(frozen=True)
class Calibration:
    """What a model was calibrated on: the text's name, number and length of its samples; None: without a text."""

    text: str | None = None
    samples: int = 0
    length: int = 0


class LayerFiles:
    """The files of a model's quantized layers in `directory`. `dequantized`: their values are written as floats."""

    def __init__(self, directory: Path, recipe: PtqRecipe, decoder: Decoder, *, dequantized: bool = False) -> None:
        self._directory, self._recipe, self._decoder, self._dequantized = directory, recipe, decoder, dequantized
        self._path, self._layers = decoder.path, len(decoder.layers)

    def has(self, index: int) -> bool:
        """Whether this layer was written completely."""
        return self._report(index).is_file()

    def write(self, layer: nn.Module, index: int, quantized: QuantizedLayer, dtype: torch.dtype) -> None:
        """Write a layer. Weights that stay float are written in `dtype`. Raises InputError if it cannot be written."""
        prefix = f"{self._path}.{index}."
        tensors = {f"{prefix}{name}": value.to("cpu", dtype) for name, value in named_weights(layer, quantized)}
        for name, weight in quantized.weights.items():
            tensors |= {f"{prefix}{name}.{kind}": value for kind, value in self._tensors(weight).items()}
        self._save(tensors, index)
        with disk_errors(self._report(index)), AtomicFile(self._report(index)) as file:
            file.temporary_path.write_text(json.dumps(_reported(quantized)), encoding="utf-8")

    def _tensors(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """A weight's tensors by the names of their kinds."""
        if self._dequantized:
            return {"weight": values_in_model(weight, self._recipe).cpu()}
        return to_tensors(weight, self._recipe)

    def restore(self, layer: nn.Module, index: int) -> None:
        """Give a float layer the weights of the written one."""
        tensors, prefix = load_file(self._file(index)), f"{self._path}.{index}."
        attach_online(layer, self._decoder.model_type, self._recipe)
        fill(layer, prefix, tensors, self._recipe, self._directory)
        for name, parameter in layer.named_parameters():
            if f"{prefix}{name}" in tensors:
                parameter.data.copy_(tensors[f"{prefix}{name}"])

    def finish(
        self,
        model: PreTrainedModel,
        ends: Mapping[str, GridWeight],
        calibration: Calibration,
        origin: str | None = None,
        tower: Mapping[str, QuantizedLayer] = MappingProxyType({}),
    ) -> None:
        """Write everything that is not in the layers, the config and the report. Raises InputError.

        `ends` are the rounded embeddings and head by their paths, whose values the model has; others are written as
        they are. `origin`: what the checkpoint was made from, for a later comparison. `tower`: the quantized parts of
        the vision tower by their paths.
        """
        if self._dequantized:
            ends = {}
        tied = set(model.all_tied_weights_keys) if has_tied_head(model) else set()
        rounded = {f"{path}.{name}": one for path, part in tower.items() for name, one in part.weights.items()}
        rest = {
            name: parameter.data.contiguous()
            for name, parameter in model.named_parameters()
            if not parameter.is_meta and name not in tied and name.removesuffix(".weight") not in {*ends, *rounded}
        }
        for path, weight in rounded.items():
            rest |= {f"{path}.{kind}": value for kind, value in self._tensors(weight).items()}
        self._save({**rest, **end_tensors(ends)}, self._layers)
        places, size = {}, 0
        for index in range(self._layers + 1):
            for name, tensor in read_safetensors_header(self._file(index)).items():
                places[name] = self._file(index).name
                size += tensor.nbytes
        reports = {}
        for index in range(self._layers):
            reports[f"{self._path}.{index}"] = json.loads(self._report(index).read_text(encoding="utf-8"))
            self._report(index).unlink()
        reports |= {path: _reported(part) for path, part in tower.items()}
        about: dict[str, Any] = {
            "recipe": self._recipe.to_json(),
            "calibration": asdict(calibration),
            "layers": reports,
        }
        if origin is not None:
            about["origin"] = origin
        with disk_errors(self._directory):
            write_index(self._directory, places, size)
            write_json(self._directory / "config.json", self._config(model, reports))
            write_json(self._directory / (DEQUANTIZED_REPORT_FILE if self._dequantized else REPORT_FILE), about)

    def _config(self, model: PreTrainedModel, reports: Mapping[str, Any]) -> dict[str, Any]:
        quantized = {f"{path}.{name}" for path, layer in reports.items() for name in layer["linears"]}
        kept = [
            name
            for name, module in model.named_modules()
            # Other readers may implement routers as linear layers, so they are listed as float too.
            if name not in quantized
            and (isinstance(module, nn.Linear | RoundedInputLinear) or self._recipe.keeps(name))
        ]
        config = config_table(model)
        if self._dequantized:
            return config
        if self._recipe.packed:
            return {**config, "quantization_config": quantization_config(self._recipe, kept)}
        return {**config, "model_type": f"{OWN_TYPE}{config['model_type']}"}

    def _save(self, tensors: dict[str, Tensor], index: int) -> None:
        path = self._file(index)
        try:
            write_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()})
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be written: {error}") from error

    def _file(self, index: int) -> Path:
        return self._directory / f"model-{index + 1:05d}-of-{self._layers + 1:05d}.safetensors"

    def _report(self, index: int) -> Path:
        return self._directory / f"layer-{index:05d}.json"


def _reported(quantized: QuantizedLayer) -> dict[str, Any]:
    """What happened to a layer, as the report has it."""
    linears = {name: asdict(one) for name, one in quantized.reports.items()}
    return {"linears": linears, "expert_tokens": quantized.expert_tokens}


def fill(module: nn.Module, prefix: str, tensors: dict[str, Tensor], recipe: PtqRecipe, where: Path) -> None:
    """Give the linear layers of `module` their dequantized weights, and remove the tensors of these from `tensors`.

    Names of tensors begin with `prefix`. Raises InputError that names `where` for missing tensors and wrong shapes.
    """
    linears = [(name, found) for name, found in module.named_modules() if isinstance(found, nn.Linear)]
    for name, linear in linears:
        path = f"{prefix}{name}"
        if f"{path}.weight_scale" not in tensors:
            continue
        shape = linear.out_features, linear.in_features
        values = values_in_model(from_tensors(tensors, path, shape, recipe, where), recipe)
        if linear.weight.is_meta:
            linear.weight = nn.Parameter(values, requires_grad=False)
        else:
            linear.weight.data.copy_(values)
        if recipe.activation_bits < 16:
            rounding_input = RoundedInputLinear(linear, recipe.activation_bits)
            keep_rotation(linear, rounding_input)
            replace_linear(module, name, rounding_input)


def attach_online(layer: nn.Module, model_type: str, recipe: PtqRecipe) -> None:
    """Let a float layer rotate, while it runs, what the recipe rotates then. Before `fill`, which keeps rotations."""
    rotation = rotation_of(recipe)
    if rotation is not None:
        attach_rotations(layer, online_modules(layer, model_type, rotation))
