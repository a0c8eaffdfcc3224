"""Quantized layers and their config in the compressed-tensors format, which vLLM and transformers read.

Format: github.com/vllm-project/compressed-tensors. "int-quantized" stores int8 weights and float scales. For float
activations vLLM needs "pack-quantized", with four weights per int32. The format has no entries for Q, K and V that
readers use, so quantized attention is not written here; see int8.checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import InputError
from int8.arithmetic import QuantizedLinear
from int8.recipe import Activations, Recipe, text_path

_INT8: dict[str, Any] = {"num_bits": 8, "type": "int"}
_ACTIVATIONS: dict[Activations, dict[str, Any] | None] = {
    Activations.STATIC: {**_INT8, "strategy": "tensor", "dynamic": False},
    Activations.DYNAMIC: {**_INT8, "strategy": "token", "dynamic": True},
    Activations.FLOAT: None,
}
_PER_WORD = 4  # int8 weights in an int32


def quantization_config(recipe: Recipe, ignored: list[str]) -> dict[str, Any]:
    """The entry `quantization_config` of config.json; `ignored` are the paths of the linear layers that stay float."""
    activations = _ACTIVATIONS[recipe.activations]
    form = "int-quantized" if activations else "pack-quantized"
    weights = {**_INT8, "strategy": "channel", "symmetric": True, "dynamic": False}
    entry = config_entry(form, weights, activations and {**activations, "symmetric": recipe.symmetric}, ignored)
    if recipe.has_dynamic_fc2:  # a group whose targets name layers goes before one for a class
        inputs = {**(_ACTIVATIONS[Activations.DYNAMIC] or {}), "symmetric": recipe.symmetric}
        group = {**entry["config_groups"]["group_0"], "targets": ["re:.*\\.fc2$"], "input_activations": inputs}
        entry["config_groups"]["group_1"] = group
    return entry


def config_entry(
    form: str, weights: dict[str, Any], activations: dict[str, Any] | None, ignored: list[str]
) -> dict[str, Any]:
    """The entry `quantization_config` for linear layers that are all stored in the same format `form`.

    `ignored` are the paths of linear layers that stay float. Programs that read only the text model of a multi-modal
    checkpoint know them by other paths, which are listed too.
    """
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations,
        "output_activations": None,
        "format": form,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(dict.fromkeys([*ignored, *(text_path(path) for path in ignored)])),
        "kv_cache_scheme": None,
    }


def to_file(layer: QuantizedLinear, recipe: Recipe) -> dict[str, Tensor]:
    """A layer's tensors: name relative to the layer's path -> tensor. Static scales are among them if it has any."""
    tensors = {"weight_scale": layer.weight_scale[:, None]}
    if recipe.activations is Activations.FLOAT:
        tensors |= {"weight_packed": _pack(layer.weight), "weight_shape": torch.tensor(layer.weight.shape)}
    else:
        tensors["weight"] = layer.weight
    if layer.bias is not None:
        tensors["bias"] = layer.bias
    if layer.input_scale is not None and layer.input_zero_point is not None:
        tensors["input_scale"] = layer.input_scale.reshape(1)
        if not recipe.symmetric:
            tensors["input_zero_point"] = layer.input_zero_point.to(torch.int8).reshape(1)
    return tensors


def from_file(tensors: dict[str, Tensor], path: str, linear: nn.Linear, recipe: Recipe, where: Path) -> QuantizedLinear:
    """Remove a layer's tensors from those of a file and return them. `path` is the layer's, `linear` its float version.

    Raises InputError that names `where` if a tensor is missing or contradicts the config.
    """
    rows, columns = linear.weight.shape

    def take(kind: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return take_tensor(tensors, f"{path}.{kind}", where, shape, dtype)

    if recipe.activations is Activations.FLOAT:
        take("weight_shape", 2)
        weight = _unpack(take("weight_packed", rows, -(-columns // _PER_WORD), dtype=torch.int32), columns)
    else:
        weight = take("weight", rows, columns, dtype=torch.int8)
    scale = take("weight_scale", rows, 1).reshape(rows)
    bias = None if linear.bias is None else take("bias", rows)
    if recipe.activations_of(path) is not Activations.STATIC:
        return QuantizedLinear(weight, scale, bias)
    zero_point = torch.zeros(1) if recipe.symmetric else take("input_zero_point", 1)
    return QuantizedLinear(
        weight, scale, bias, take("input_scale", 1).reshape(()), zero_point.to(torch.int32).reshape(())
    )


def take_tensor(
    tensors: dict[str, Tensor],
    name: str,
    where: Path,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Remove a tensor from a file's and return it. Raises InputError if it is missing or has another shape or dtype."""
    tensor = tensors.pop(name, None)
    if tensor is None:
        raise InputError(f"{where}: tensor {name!r} is missing")
    if shape is not None and tuple(tensor.shape) != shape:
        found, expected = list(tensor.shape), list(shape)
        raise InputError(f"{where}: tensor {name!r} has shape {found}; by the config it should be {expected}")
    if dtype is not None and tensor.dtype != dtype:
        raise InputError(f"{where}: tensor {name!r} has dtype {tensor.dtype}; {dtype} is needed")
    return tensor


def _pack(weight: Tensor) -> Tensor:
    """int8 [out, in] as int32 [out, in / 4, rounded up]: 128 is added to each value; the first is the lowest byte."""
    octets = (weight.to(torch.int16) + 128).to(torch.uint8)
    return nn.functional.pad(octets, (0, -weight.shape[1] % _PER_WORD)).view(torch.int32)


def _unpack(packed: Tensor, columns: int) -> Tensor:
    return (packed.view(torch.uint8)[:, :columns].to(torch.int16) - 128).to(torch.int8)
