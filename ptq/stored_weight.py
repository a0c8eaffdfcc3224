"""Quantized weights as tensors in a file, and back.

Grids with integer zero points are stored as compressed-tensors stores them
(github.com/vllm-project/compressed-tensors): "int-quantized" holds int8 weights, "pack-quantized" packs codes of any
number of bits into int32 words. HQQ's float zero points fit no format that other programs read; they are stored beside
packed codes in the same way. For BiLLM's binary weights see ptq.binary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from int8.compressed_tensors import config_entry, take_tensor
from ptq.binary import BinaryWeight, layout
from ptq.grid import GridWeight
from ptq.packing import pack, unpack
from ptq.recipe import PtqRecipe, Rounding
from ptq.stored_size import has_column_groups, is_plain_int8, words


def to_tensors(weight: GridWeight | BinaryWeight, recipe: PtqRecipe) -> dict[str, Tensor]:
    """A weight's tensors: name relative to the layer's path -> tensor on the CPU."""
    if isinstance(weight, BinaryWeight):
        return weight.stored_tensors()
    tensors = {"weight_scale": weight.scale.cpu().contiguous()}
    if is_plain_int8(recipe):
        return tensors | {"weight": weight.codes.cpu().contiguous()}
    tensors["weight_packed"] = pack(weight.codes, weight.bits)
    tensors["weight_shape"] = torch.tensor(weight.codes.shape)
    if weight.zero is not None and weight.zero.is_floating_point():
        tensors["weight_zero_point"] = weight.zero.cpu().contiguous()
    elif weight.zero is not None:  # packed along the rows
        tensors["weight_zero_point"] = pack(weight.zero.T, weight.bits).T.contiguous()
    if weight.column_groups is not None:
        tensors["weight_g_idx"] = weight.column_groups.cpu()
    return tensors


def from_tensors(
    tensors: dict[str, Tensor], path: str, shape: tuple[int, int], recipe: PtqRecipe, where: Path
) -> GridWeight | BinaryWeight:
    """Remove the tensors of the layer `path` (its weight has this shape) from those of a file, and return the weight.

    Raises InputError that names `where` if one is missing or contradicts the config.
    """
    rows, columns = shape
    groups = recipe.grid.groups(columns)

    def take(kind: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return take_tensor(tensors, f"{path}.{kind}", where, shape, dtype)

    if recipe.rounding is Rounding.BILLM:
        dtype = tensors[f"{path}.weight_scale"].dtype
        kinds = layout(rows, columns, recipe.block, dtype)
        held = {kind: take(kind, *one.shape, dtype=one.dtype) for kind, one in kinds.items()}
        return BinaryWeight.from_tensors(held, columns, recipe.block)
    scale = take("weight_scale", rows, groups)
    if is_plain_int8(recipe):
        return GridWeight(take("weight", rows, columns, dtype=torch.int8), scale, None, recipe.bits)
    codes = unpack(take("weight_packed", rows, words(columns, recipe.bits), dtype=torch.int32), recipe.bits, columns)
    take("weight_shape", 2)
    zero = None
    if recipe.rounding is Rounding.HQQ:
        zero = take("weight_zero_point", rows, groups, dtype=scale.dtype)
    elif not recipe.symmetric:
        packed = take("weight_zero_point", words(rows, recipe.bits), groups, dtype=torch.int32)
        zero = unpack(packed.T, recipe.bits, rows).T.contiguous()
    order = take("weight_g_idx", columns, dtype=torch.int32) if has_column_groups(recipe) else None
    return GridWeight(codes, scale, zero, recipe.bits, order)


def values_in_model(weight: GridWeight | BinaryWeight, recipe: PtqRecipe) -> Tensor:
    """The values [rows, columns] that a model computes with.

    Beside float activations these are dequantized to the dtype of the scales. With rounded activations a program
    multiplies integers and then the scales, so that values are not rounded: they are in float32.
    """
    if recipe.activation_bits < 16 and isinstance(weight, GridWeight):
        return weight.dequantized(torch.float32)
    return weight.dequantized()


def quantization_config(recipe: PtqRecipe, ignored: list[str]) -> dict[str, Any]:
    """The entry `quantization_config` of config.json for compressed-tensors, if the recipe's result is `packed`.

    `ignored` are the paths of the linear layers that stay float.
    """
    form = "int-quantized" if is_plain_int8(recipe) else "pack-quantized"
    dynamic = {"num_bits": recipe.activation_bits, "type": "int", "symmetric": True, "strategy": "token"}
    weights = {
        "num_bits": recipe.bits,
        "type": "int",
        "symmetric": recipe.symmetric,
        "strategy": "group" if recipe.group else "channel",
        "group_size": recipe.group or None,
        "dynamic": False,
        "actorder": "group" if has_column_groups(recipe) else None,
    }
    activations = {**dynamic, "dynamic": True} if recipe.activation_bits < 16 else None
    return config_entry(form, weights, activations, ignored)
