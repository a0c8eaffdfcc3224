"""How a recipe's weights are stored, and their bytes. This module does not import torch.

Format: compressed-tensors (github.com/vllm-project/compressed-tensors), see ptq.stored_weight.
"""

from __future__ import annotations

from ptq.recipe import Order, PtqRecipe, Rounding


def is_plain_int8(recipe: PtqRecipe) -> bool:
    """Whether weights are stored as int8, one scale per row, as programs for int8 matrix products expect."""
    return recipe.bits == 8 and recipe.activation_bits == 8 and recipe.symmetric and not recipe.group


def has_column_groups(recipe: PtqRecipe) -> bool:
    """Whether the groups of a weight are not runs of neighbouring columns, so that each column's group is stored."""
    return recipe.rounding is Rounding.GPTQ and recipe.order is Order.DYNAMIC and recipe.group > 0


def stored_bytes(rows: int, columns: int, recipe: PtqRecipe, scale_bytes: int = 2) -> int:
    """Bytes of the tensors of a weight [rows, columns], whose scales have `scale_bytes` bytes each."""
    if recipe.rounding is Rounding.BILLM:  # two bits per weight, important columns; 4 means and 4 scales per block
        width, blocks = -(-columns // 8), -(-columns // recipe.block)
        return 2 * rows * width + width + 2 * 4 * rows * blocks * scale_bytes
    groups = recipe.grid.groups(columns)
    scales = rows * groups * scale_bytes
    if is_plain_int8(recipe):
        return rows * columns + scales
    total = 4 * rows * words(columns, recipe.bits) + 2 * 8 + scales
    if recipe.rounding is Rounding.HQQ:
        total += scales
    elif not recipe.symmetric:
        total += 4 * words(rows, recipe.bits) * groups
    return total + (4 * columns if has_column_groups(recipe) else 0)


def words(values: int, bits: int) -> int:
    """The int32 words that this many values of `bits` bits take."""
    return -(-values * bits // 32)
