"""Binary weights of BiLLM: two bits per weight, and means and scales per row and block of columns.

A weight in a usual column is mean + sign * scale, with the mean and scale of one of two groups, so it needs a sign and
a bit for its group. A weight in a salient column is a sum of two such terms, so it needs two signs. Both are two bits,
and the number of stored bits does not depend on how many columns are salient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TERMS = 4  # small weights of usual columns, large ones, the first term of salient columns, their second term
SMALL, LARGE, FIRST, SECOND = range(TERMS)
SIGNS, BITS, SALIENT, MEANS, SCALES = "weight_signs", "weight_bits", "weight_salient", "weight_mean", "weight_scale"


@dataclass(frozen=True)
class BinaryWeight:
    """A binary weight [rows, columns].

    `signs` bool [rows, columns]: True for +. `bits` bool [rows, columns]: True for + as the second sign of a salient
    column, or for the group of large weights in a usual column. `salient` bool [columns]. `mean` and `scale` [rows,
    blocks, TERMS] in the dtype in which they are stored. A block has `block` columns, the last one maybe fewer.
    """

    signs: Tensor
    bits: Tensor
    salient: Tensor
    mean: Tensor
    scale: Tensor
    block: int

    def dequantized(self) -> Tensor:
        """The weight [rows, columns] in the dtype of the scales."""
        group = torch.where(self.salient, FIRST, torch.where(self.bits, LARGE, SMALL))
        first = self._term(group, self.signs)
        second = self._term(torch.full_like(group, SECOND), self.bits)
        return (first + torch.where(self.salient, second, 0)).to(self.scale.dtype)

    def _term(self, group: Tensor, signs: Tensor) -> Tensor:
        """mean + sign * scale, float32 [rows, columns], of the terms `group` [rows, columns]."""
        rows, columns = group.shape
        places = torch.arange(columns, device=group.device) // self.block * TERMS + group
        mean, scale = (held.float().reshape(rows, -1).gather(1, places) for held in (self.mean, self.scale))
        return torch.where(signs, mean + scale, mean - scale)

    @property
    def sign_bits(self) -> float:
        """Signs per weight: 1, and 1 more for each weight in a salient column. BiLLM's paper states this number."""
        return 1 + float(self.salient.float().mean())

    @property
    def stored_bits(self) -> int:
        """The bits of all tensors that `stored_tensors` returns."""
        rows, columns = self.signs.shape
        return 8 * sum(held.nbytes for held in layout(rows, columns, self.block, self.scale.dtype).values())

    def stored_tensors(self) -> dict[str, Tensor]:
        """The tensors that a file holds, on the CPU, by the names in `layout`."""
        return {
            SIGNS: _packed(self.signs),
            BITS: _packed(self.bits),
            SALIENT: _packed(self.salient[None])[0],
            MEANS: self.mean.cpu().contiguous(),
            SCALES: self.scale.cpu().contiguous(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], columns: int, block: int) -> BinaryWeight:
        """The weight from the result of `stored_tensors`, whose shapes and dtypes are those of `layout`."""
        signs, bits = (_unpacked(tensors[name], columns) for name in (SIGNS, BITS))
        salient = _unpacked(tensors[SALIENT][None], columns)[0]
        return cls(signs, bits, salient, tensors[MEANS], tensors[SCALES], block)


@dataclass(frozen=True)
class StoredTensor:
    """The shape and dtype of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def layout(rows: int, columns: int, block: int, dtype: torch.dtype) -> dict[str, StoredTensor]:
    """The tensors of a binary weight [rows, columns] with scales in `dtype`: name -> shape and dtype.

    Bits are packed eight to a byte, lowest first, along the columns.
    """
    per_block = (rows, -(-columns // block), TERMS)
    width = -(-columns // 8)
    return {
        SIGNS: StoredTensor((rows, width), torch.uint8),
        BITS: StoredTensor((rows, width), torch.uint8),
        SALIENT: StoredTensor((width,), torch.uint8),
        MEANS: StoredTensor(per_block, dtype),
        SCALES: StoredTensor(per_block, dtype),
    }


def _packed(flags: Tensor) -> Tensor:
    """bool [rows, columns] as uint8 [rows, columns / 8, rounded up]."""
    return torch.from_numpy(np.packbits(flags.cpu().numpy(), axis=1, bitorder="little"))


def _unpacked(packed: Tensor, columns: int) -> Tensor:
    bits = np.unpackbits(packed.cpu().contiguous().numpy(), axis=1, count=columns, bitorder="little")
    return torch.from_numpy(bits).bool()
