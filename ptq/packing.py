"""Codes of any number of bits packed into int32 words, as compressed-tensors' format "pack-quantized" stores them.

2^(bits-1) is added to each code; the bits follow each other without gaps, lowest first, along the last dimension, and
the last word is filled with zeros. A code may continue in the next word (3, 5, 6 and 7 bits).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ROWS_AT_ONCE = 1024  # of which the bits are unfolded, one byte per bit


def pack(codes: Tensor, bits: int) -> Tensor:
    """int8 [rows, columns] as int32 [rows, columns * bits / 32, rounded up]."""
    unsigned = (codes.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8).cpu().numpy()
    parts = [_packed(unsigned[start : start + ROWS_AT_ONCE], bits) for start in range(0, len(unsigned), ROWS_AT_ONCE)]
    return torch.from_numpy(np.concatenate(parts))


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """int8 [rows, columns] from the int32 words that `pack` made."""
    words = packed.cpu().contiguous().numpy()
    parts = [_codes(words[start : start + ROWS_AT_ONCE], bits, columns) for start in range(0, len(words), ROWS_AT_ONCE)]
    return torch.from_numpy(np.concatenate(parts))


def _packed(unsigned: np.ndarray, bits: int) -> np.ndarray:
    rows, columns = unsigned.shape
    unfolded = np.unpackbits(unsigned[:, :, None], axis=2, count=bits, bitorder="little").reshape(rows, -1)
    padded = np.pad(unfolded, ((0, 0), (0, -columns * bits % 32)))
    return np.ascontiguousarray(np.packbits(padded, axis=1, bitorder="little")).view("<i4")


def _codes(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    unfolded = np.unpackbits(words.astype("<i4").view(np.uint8), axis=1, count=columns * bits, bitorder="little")
    unsigned = np.packbits(unfolded.reshape(len(words), columns, bits), axis=2, bitorder="little")[:, :, 0]
    return (unsigned.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
