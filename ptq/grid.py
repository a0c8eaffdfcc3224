"""Grids of integers for weights: scales, zero points, codes, and the values that the codes stand for.

w ~ (q - zero) * scale, with q a signed integer of `bits` bits: from -2^(bits-1) to 2^(bits-1) - 1. One scale (and zero
point) serves one row, or `group` columns of a row. As in compressed-tensors and the GPTQ family, a symmetric scale is
2 absmax / (2^bits - 1) and an asymmetric range is widened to include 0.

Scales are rounded to the dtype in which they are stored before any code is computed, and the values too: what is
computed here is what a reader of the file gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.recipe import Grid

SEARCH_STEPS, SEARCH_SHRINK, SEARCH_NORM = 80, 100, 2.4
"""The search for a smaller range of GPTQ's code: 1 - i / 100 of the range for i < 80, by the sum of |error|^2.4."""


@dataclass(frozen=True)
class GridWeight:
    """A weight [rows, columns] on a grid.

    `codes` int8 [rows, columns]; `scale` [rows, groups] in the dtype in which it is stored; `zero` int8 [rows, groups],
    or a float as `scale` for methods with float zero points, or None (symmetric: 0); `column_groups` int32 [columns],
    the group of each column, if groups are not runs of neighbouring columns.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int
    column_groups: Tensor | None = None

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight [rows, columns] in `dtype`, by default that of the scales."""
        scale, zero = self._per_column(self.scale), None if self.zero is None else self._per_column(self.zero)
        return values(self.codes, scale, zero, dtype)

    def _per_column(self, grouped: Tensor) -> Tensor:
        if self.column_groups is not None:
            return grouped[:, self.column_groups.long()]
        return spread(grouped, self.codes.shape[1])


def spread(grouped: Tensor, columns: int) -> Tensor:
    """[rows, groups] as [rows, columns], or [rows, 1], which broadcasts, for one group."""
    return grouped if grouped.shape[1] == 1 else grouped.repeat_interleave(columns // grouped.shape[1], 1)


def limits(bits: int) -> tuple[int, int]:
    """The lowest and the highest code."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def ranges(weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The lowest and highest value of each group of a weight [rows, columns]: [rows, groups] each."""
    low, high = torch.aminmax(weight.unflatten(1, (grid.groups(weight.shape[1]), -1)), dim=2)
    return low, high


def scale_and_zero(low: Tensor, high: Tensor, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Scale (in `dtype`) and zero point (int8; None if symmetric) of ranges of any shape, given in float32."""
    lowest, highest = limits(grid.bits)
    low, high = low.float().clamp_max(0), high.float().clamp_min(0)
    if grid.symmetric:
        scale = torch.maximum(-low, high) * 2 / (highest - lowest)
        return positive(scale.to(dtype)), None
    scale = positive(((high - low) / (highest - lowest)).to(dtype))
    zero = torch.round(lowest - low / scale.float()).clamp(lowest, highest)
    return scale, zero.to(torch.int8)


def positive(scale: Tensor) -> Tensor:
    """1 in place of 0: all weights of this group are 0, or too small for the dtype."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def codes(weight: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    """The nearest codes, as float32 whole numbers; all arguments broadcast. Halves are rounded to even."""
    place = weight.float() / scale.float()
    if zero is not None:
        place = place + zero.float()
    return torch.round(place).clamp(*limits(bits))


def values(q: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    """The values of codes, in `dtype`, by default that of the scales."""
    exact = q.float() if zero is None else q.float() - zero.float()
    return (exact * scale.float()).to(dtype or scale.dtype)


def fitted(weight: Tensor, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The scales and zero points [rows, groups] of a weight, by its ranges or by the search for smaller ranges."""
    low, high = ranges(weight, grid)
    if not grid.search:
        return scale_and_zero(low, high, grid, dtype)
    return _searched(weight, low, high, grid, dtype)


def _searched(
    weight: Tensor, low: Tensor, high: Tensor, grid: Grid, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    grouped = weight.unflatten(1, (low.shape[1], -1))
    best: Tensor | None = None
    scale, zero = scale_and_zero(low, high, grid, dtype)
    for step in range(SEARCH_STEPS):
        share = 1 - step / SEARCH_SHRINK
        tried, tried_zero = scale_and_zero(low * share, high * share, grid, dtype)
        wide, wide_zero = tried[..., None], None if tried_zero is None else tried_zero[..., None]
        rounded = values(codes(grouped, wide, wide_zero, grid.bits), wide, wide_zero).float()
        error = (rounded - grouped.float()).abs_().pow_(SEARCH_NORM).sum(2)
        if best is None:
            best = error
            continue
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, tried, scale)
        if zero is not None and tried_zero is not None:
            zero = torch.where(better, tried_zero, zero)
    return scale, zero


def round_to_nearest(weight: Tensor, grid: Grid, dtype: torch.dtype) -> GridWeight:
    """RTN: each weight [rows, columns] becomes the nearest value of its group's grid, with scales in `dtype`."""
    scale, zero = fitted(weight, grid, dtype)
    columns = weight.shape[1]
    q = codes(weight, spread(scale, columns), None if zero is None else spread(zero, columns), grid.bits)
    return GridWeight(q.to(torch.int8), scale, zero, grid.bits)
