"""GPTQ: columns are rounded one by one, and the columns not yet rounded make up for the error.

Source: Frantar et al., arXiv 2210.17323. What is minimized is the squared error of the outputs over the calibration
tokens, tr(dW H dW^T) with H = 2/n sum x x^T. GPTAQ (arXiv 2504.02692) also makes up for the difference between the
inputs of the quantized and of the unquantized model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from converters.errors import InputError
from ptq.grid import GridWeight, codes, fitted, values
from ptq.recipe import Grid, Order

PULL = 0.25  # the share of GPTAQ's correction that its authors apply
MORE_DAMP = 10  # H that is not positive definite is tried once more with this many times the damping


@dataclass(frozen=True)
class GptqSettings:
    """`damp`: the share of the mean of H's diagonal added to it; `block`: columns per block; see `Order`."""

    damp: float = 0.01
    block: int = 128
    order: Order = Order.STATIC


@dataclass(frozen=True)
class GptqWeight:
    """The result: the weight, and whether more damping than asked for was needed."""

    weight: GridWeight
    damped_more: bool = False


def gptq(
    weight: Tensor,
    hessian: Tensor,
    grid: Grid,
    dtype: torch.dtype,
    settings: GptqSettings,
    where: str,
    shift: Tensor | None = None,
    ranged: Tensor | None = None,
) -> GptqWeight:
    """Round a weight [rows, columns] (float32) to a grid with scales in `dtype`.

    `hessian` is [columns, columns], float32; neither argument is changed. `shift` (for GPTAQ) [columns, columns] is
    2/n sum of (x_float - x) x^T. `ranged` is the weight whose ranges the scales are made for, by default `weight`. A
    column whose input is always 0 (a dead column) is rounded to nearest.

    Raises InputError that begins with `where` if H is not positive definite even with ten times the damping.
    """
    scale, zero = fitted(weight.float() if ranged is None else ranged, grid, dtype)
    order = torch.arange(weight.shape[1], device=weight.device)
    if settings.order is not Order.NONE:
        order = torch.argsort(torch.diag(hessian), descending=True, stable=True)
    matrix = hessian.float()[order[:, None], order]  # copies
    del hessian  # H and the matrices made from it are the most that a layer needs, so none is kept longer than needed
    upper, damped_more = inverse_root(matrix, settings.damp, where)
    del matrix
    shift = None if shift is None else shift[order[:, None], order]
    pull = None if shift is None else _pull(shift, upper)
    work = weight.float()[:, order]
    rounded = _Rounded(work, grid, dtype, settings.order, order, scale, zero)
    _round_columns(work, upper, pull, settings.block, rounded)
    return GptqWeight(rounded.result(), damped_more)


def layer_error(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """tr(dW H dW^T), the squared error of the outputs, of a weight and its rounded values [rows, columns]."""
    difference = rounded.float() - weight.float()
    return float(((difference @ hessian) * difference).sum())


def inverse_root(hessian: Tensor, damp: float, where: str) -> tuple[Tensor, bool]:
    """The upper Cholesky factor U of H^-1 = U^T U, with damping; and whether ten times the damping was needed.

    The diagonal of `hessian` is changed: that of dead columns becomes 1, and the damping is added.
    """
    diagonal = torch.diag(hessian).clone()
    mean = float(diagonal.mean())
    diagonal[diagonal == 0] = 1
    for share in (damp, damp * MORE_DAMP):
        torch.diagonal(hessian).copy_(diagonal + share * mean)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if failed:
            continue
        inverse = torch.cholesky_inverse(factor)
        del factor
        upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if not failed:
            return upper, share != damp
    raise InputError(
        f"{where}: the inputs of this layer over the calibration text are not independent enough for GPTQ (H is not"
        f" positive definite with damp {damp * MORE_DAMP:g}); use more samples, or a larger damp in a recipe file"
    )


def _pull(shift: Tensor, upper: Tensor) -> Tensor:
    """GPTAQ's P [columns, columns], strictly upper: what the columns after j take over per unit of weight j."""
    return PULL * torch.triu(shift @ upper.T, 1) @ upper


class _Rounded:
    """The rounded columns of a weight, in GPTQ's order of columns."""

    def __init__(
        self,
        weight: Tensor,
        grid: Grid,
        dtype: torch.dtype,
        order: Order,
        columns: Tensor,
        scale: Tensor,
        zero: Tensor | None,
    ) -> None:
        count = weight.shape[1]
        self._grid, self._dtype, self._columns = grid, dtype, columns
        self._width = count // scale.shape[1]
        self._group = columns // self._width if order is Order.STATIC else torch.arange(count) // self._width
        self._groups: list[int] = self._group.tolist()
        self._follows = order is not Order.STATIC and scale.shape[1] > 1
        self._by_order = order is Order.DYNAMIC
        self._scale, self._zero = scale.T.contiguous(), None if zero is None else zero.T.contiguous()  # [groups, rows]
        if self._by_order and scale.shape[1] == 1:
            self._by_order = False
        self._codes = torch.empty(count, len(weight), dtype=torch.int8, device=weight.device)  # [columns, rows]

    def begin(self, index: int, weight: Tensor) -> None:
        """Column `index` is next. If a group begins with it and has no scales yet, they are those of the group's
        columns of `weight`, [columns, rows], as they are now."""
        if not self._follows or index % self._width:
            return
        group = self._groups[index]
        now = weight[index : index + self._width].T
        scale, zero = fitted(now, replace(self._grid, group=0), self._dtype)
        self._scale[group] = scale[:, 0]
        if self._zero is not None and zero is not None:
            self._zero[group] = zero[:, 0]

    def round(self, index: int, column: Tensor) -> Tensor:
        """Round column `index` [rows], and return its values."""
        group = self._groups[index]
        scale, zero = self._scale[group], None if self._zero is None else self._zero[group]
        q = codes(column, scale, zero, self._grid.bits)
        self._codes[index] = q.to(torch.int8)
        return values(q, scale, zero).float()

    def result(self) -> GridWeight:
        back = torch.argsort(self._columns)
        groups = self._group.to(back.device)[back].to(torch.int32) if self._by_order else None
        zero = None if self._zero is None else self._zero.T.contiguous()
        return GridWeight(self._codes[back].T.contiguous(), self._scale.T.contiguous(), zero, self._grid.bits, groups)


def _round_columns(weight: Tensor, upper: Tensor, pull: Tensor | None, block: int, rounded: _Rounded) -> None:
    """Round all columns of `weight` [rows, columns], which is changed."""
    transposed = weight.T.contiguous()  # columns one after the other in memory
    count = len(transposed)
    for start in range(0, count, block):
        stop = min(start + block, count)
        part = transposed[start:stop]
        errors, taken = torch.empty_like(part), torch.empty_like(part)
        within = upper[start:stop, start:stop]
        diagonal = torch.diag(within).tolist()
        for place in range(stop - start):
            index = start + place
            rounded.begin(index, transposed)
            taken[place] = part[place]
            errors[place] = (part[place] - rounded.round(index, part[place])) / diagonal[place]
            part[place:] -= within[place, place:, None] * errors[place]
            if pull is not None:
                part[place + 1 :] += pull[index, index + 1 : stop, None] * taken[place]
        transposed[stop:] -= upper[start:stop, stop:].T @ errors
        if pull is not None:
            transposed[stop:] += pull[start:stop, stop:].T @ taken
