"""The FP8 block format of published checkpoints: F8_E4M3 weights, with one scale per block in a second tensor.

Format: `quant_method` "fp8" of transformers (FineGrainedFP8Config): weight = value x weight_scale_inv of its block.
Number format: arXiv 2209.05433, E4M3 without infinities.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import InputError

SCALE_SUFFIX = "_scale_inv"


def _e4m3_values() -> npt.NDArray[np.float32]:
    codes = np.arange(256)
    exponents, mantissas = (codes >> 3) & 15, codes & 7
    normal = np.ldexp(1 + mantissas / 8, exponents - 7)
    values = np.where(exponents == 0, np.ldexp(mantissas / 8, -6), normal)
    values = np.where((codes & 127) == 127, np.nan, values)
    return np.where(codes < 128, values, -values).astype(np.float32)


VALUES = _e4m3_values()
"""Code (0 to 255) -> its value, float32."""


def block_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a block if the checkpoint is in this format; None if it is not quantized.

    Raises InputError, with the method's name, for every other quantization.
    """
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method != "fp8" or not isinstance(quantization, dict):
        raise InputError(
            f"config.json: the checkpoint is quantized by {method!s:.40}, which cannot be read; give the unquantized"
            " checkpoint, or FP8 with blocks"
        )
    block = quantization.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and 0 < n < 2**31 for n in block):
        raise InputError(
            f"config.json: weight_block_size is {str(block)[:40]}; expected two numbers, the rows and"
            " columns of a block"
        )
    return block[0], block[1]


def dequantize(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], first_row: int, block: tuple[int, int]
) -> npt.NDArray[np.uint16]:
    """Dequantize rows [n, k] of codes to bfloat16 held in uint16, rounded to nearest, ties to even.

    `first_row` is the number of the first row in the whole tensor. `scales` [row blocks, column blocks] are those of
    the whole tensor.
    """
    n, k = codes.shape
    rows = (first_row + np.arange(n)) // block[0]
    spread = np.repeat(scales[rows], min(block[1], k), axis=1)[:, :k]
    return to_bfloat16(VALUES[codes] * spread)


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the nearest bfloat16 (as uint16), ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
