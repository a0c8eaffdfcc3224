"""Quantized weights as tensors in a file, and back.

Grids with integer zero points are stored as compressed-tensors stores them
(github.com/vllm-project/compressed-tensors): "int-quantized" holds int8 weights, "pack-quantized" packs codes of any
number of bits into int32 words. HQQ's float zero points fit no format that other programs read; they are stored beside
packed codes in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from int8.compressed_tensors import take_tensor
from ptq.grid import GridWeight
from ptq.packing import pack, unpack
from ptq.recipe import Order, PtqRecipe, Rounding

BIAS = "bias"


def is_plain_int8(recipe: PtqRecipe) -> bool:
    """Whether weights are stored as int8, one scale per row, as programs for int8 matrix products expect."""
    return recipe.bits == 8 and recipe.activation_bits == 8 and recipe.symmetric and not recipe.group


def to_tensors(weight: GridWeight, recipe: PtqRecipe) -> dict[str, Tensor]:
    """A weight's tensors: name relative to the layer's path -> tensor on the CPU."""
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
) -> GridWeight:
    """Remove the tensors of the layer `path` (its weight has this shape) from those of a file, and return the weight.

    Raises InputError that names `where` if one is missing or contradicts the config.
    """
    rows, columns = shape
    groups = recipe.grid.groups(columns)

    def take(kind: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return take_tensor(tensors, f"{path}.{kind}", where, shape, dtype)

    scale = take("weight_scale", rows, groups)
    if is_plain_int8(recipe):
        return GridWeight(take("weight", rows, columns, dtype=torch.int8), scale, None, recipe.bits)
    words = _words(columns, recipe.bits)
    codes = unpack(take("weight_packed", rows, words, dtype=torch.int32), recipe.bits, columns)
    take("weight_shape", 2)
    zero = None
    if recipe.rounding is Rounding.HQQ:
        zero = take("weight_zero_point", rows, groups, dtype=scale.dtype)
    elif not recipe.symmetric:
        packed = take("weight_zero_point", _words(rows, recipe.bits), groups, dtype=torch.int32)
        zero = unpack(packed.T, recipe.bits, rows).T.contiguous()
    order = take("weight_g_idx", columns, dtype=torch.int32) if has_column_groups(recipe) else None
    return GridWeight(codes, scale, zero, recipe.bits, order)


def has_column_groups(recipe: PtqRecipe) -> bool:
    """Whether the groups of a weight are not runs of neighbouring columns, so that each column's group is stored."""
    return recipe.rounding is Rounding.GPTQ and recipe.order is Order.DYNAMIC and recipe.group > 0


def stored_bytes(rows: int, columns: int, recipe: PtqRecipe, scale_bytes: int = 2) -> int:
    """Bytes of the tensors of a weight [rows, columns], whose scales have `scale_bytes` bytes each."""
    groups = recipe.grid.groups(columns)
    scales = rows * groups * scale_bytes
    if is_plain_int8(recipe):
        return rows * columns + scales
    total = 4 * rows * _words(columns, recipe.bits) + 2 * 8 + scales
    if recipe.rounding is Rounding.HQQ:
        total += scales
    elif not recipe.symmetric:
        total += 4 * _words(rows, recipe.bits) * groups
    return total + (4 * columns if has_column_groups(recipe) else 0)


def _words(values: int, bits: int) -> int:
    """The int32 words that this many values of `bits` bits take."""
    return -(-values * bits // 32)


def quantization_config(recipe: PtqRecipe, ignored: list[str]) -> dict[str, Any]:
    """The entry `quantization_config` of config.json; `ignored` are the paths of the linear layers that stay float.

    For a result that compressed-tensors has no format for, the entry names bitsweep as the method, so that other
    programs refuse the directory instead of reading it as something else.
    """
    if not recipe.packed:
        return {"quant_method": "bitsweep", "variant": recipe.name, "ignore": ignored}
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
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": {**dynamic, "dynamic": True} if recipe.activation_bits < 16 else None,
        "output_activations": None,
        "format": form,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }
