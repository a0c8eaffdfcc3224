"""What a quantized checkpoint on the disk holds: packed weights, or the values that they stand for in bfloat16.

This module does not import torch.
"""

from __future__ import annotations

from converters.errors import InputError
from ptq.recipe import PtqRecipe, Rounding

_ZEROS = "no format of other programs has its float zero points"
_SIGNS = "no format of other programs has its binary weights"
_EMBEDDINGS = "no format of other programs has its 8-bit embeddings"


def require_written(recipe: PtqRecipe, dequantized: bool) -> None:
    """Raise InputError if no other program could run the result of a recipe as it was quantized.

    `dequantized`: it is written as float weights, without rounding or rotating anything while the model runs.
    """
    if recipe.rotate:
        raise InputError(
            f"{recipe.name}: rotates activations while the model runs, which no other program does; measure it with"
            " sweep run, or leave rot out"
        )
    if dequantized and recipe.activation_bits < 16:
        raise InputError(
            f"{recipe.name}: rounds activations while the model runs, so its weights alone are another model; leave"
            f" --dequantized or a{recipe.activation_bits} out"
        )
    if not dequantized and not recipe.packed:
        reason = {Rounding.HQQ: _ZEROS, Rounding.BILLM: _SIGNS}.get(recipe.rounding, _EMBEDDINGS)
        raise InputError(f"{recipe.name}: {reason}; give --dequantized to write their values in a BF16 checkpoint")
