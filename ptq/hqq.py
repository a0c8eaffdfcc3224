"""HQQ: half-quadratic quantization, which needs no calibration text.

Source: Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog/. The zero points of a grid are not rounded to
integers, and they minimize a robust error of the weights, sum |w - (q - zero) * scale|^0.7, in which a few large errors
count less than in a sum of squares. Two steps take turns: given the codes, a shrinkage takes the large errors E out of
the weights; given E, the best zero point of a group is the mean of q - (w - E) / scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptq.grid import GridWeight, codes, limits, positive, ranges, scale_and_zero, values
from ptq.recipe import Grid

NORM = 0.7  # the exponent of the robust error
SHARPNESS = 10  # beta of the source: the larger, the less is taken out as E
ROUNDS = 20


def hqq(weight: Tensor, grid: Grid, dtype: torch.dtype) -> GridWeight:
    """Round a weight [rows, columns] to a grid with scales and float zero points in `dtype`.

    Each group keeps the zero point with the smallest robust error of all rounds, and the grid of round-to-nearest if
    that is better still. Errors are those of the stored scales, zero points and values. Raises ValueError for a
    symmetric grid, which has no zero points.
    """
    if grid.symmetric:
        raise ValueError("HQQ needs zero points, so the grid cannot be symmetric")
    grouped = weight.float().unflatten(1, (grid.groups(weight.shape[1]), -1))
    low, high = ranges(weight.float(), grid)
    nearest, integer = scale_and_zero(low, high, grid, dtype)
    assert integer is not None
    best = _Best(grouped, nearest[..., None], integer[..., None].to(dtype), grid.bits)
    lowest, highest = limits(grid.bits)
    scale = positive(((high - low) / (highest - lowest)).to(dtype))[..., None]
    zero = (lowest - low[..., None] / scale.float()).to(dtype)
    smallest = float("inf")
    for _ in range(ROUNDS):
        q, difference = best.offer(scale, zero)
        zero = (q - (grouped - _large(difference)) / scale.float()).mean(2, keepdim=True).to(dtype)
        mean = float(difference.abs().mean())
        if mean >= smallest:
            break
        smallest = mean
    best.offer(scale, zero)
    return best.result()


def _large(difference: Tensor) -> Tensor:
    """E: the differences, each shrunk towards 0; small ones become 0."""
    size = difference.abs()
    return torch.sign(difference) * (size - size.pow(NORM - 1) / SHARPNESS).clamp_min(0)


class _Best:
    """The scale and zero point [rows, groups, 1] of each group with the smallest robust error so far."""

    def __init__(self, grouped: Tensor, scale: Tensor, zero: Tensor, bits: int) -> None:
        self._grouped, self._bits = grouped, bits
        self._scale, self._zero = scale, zero
        self._error = torch.full_like(scale, torch.inf, dtype=torch.float32)
        self.offer(scale, zero)

    def offer(self, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """Keep these where they are better. Returns their codes and differences w - value [rows, groups, width]."""
        q = codes(self._grouped, scale, zero, self._bits)
        difference = self._grouped - values(q, scale, zero).float()
        error = difference.abs().pow(NORM).sum(2, keepdim=True)
        better = error < self._error
        self._error = torch.where(better, error, self._error)
        self._scale, self._zero = torch.where(better, scale, self._scale), torch.where(better, zero, self._zero)
        return q, difference

    def result(self) -> GridWeight:
        q = codes(self._grouped, self._scale, self._zero, self._bits).to(torch.int8)
        return GridWeight(q.flatten(1), self._scale.squeeze(2), self._zero.squeeze(2), self._bits)
