"""The table of methods that round a weight: by a recipe, from the weight and what its layer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.awq import clipped, is_clipped
from ptq.billm import BillmSettings, billm
from ptq.binary import BinaryWeight
from ptq.gptq import GptqSettings, gptq
from ptq.grid import GridWeight, round_to_nearest
from ptq.hessian import InputSums
from ptq.hqq import hqq
from ptq.recipe import PtqRecipe, Rounding

QuantizedWeight = GridWeight | BinaryWeight


@dataclass(frozen=True)
class Task:
    """A weight [rows, columns] (float32) to be rounded by a recipe, with scales in `dtype`.

    `sums` is what the layer reads, None if no text is read; `where` is the layer's path, for messages.
    """

    weight: Tensor
    sums: InputSums | None
    recipe: PtqRecipe
    dtype: torch.dtype
    where: str

    @property
    def place(self) -> str:
        """The layer's path with the number of calibration tokens that it read, for messages about H."""
        return self.where if self.sums is None else f"{self.where} ({self.sums.tokens:,} calibration tokens)"

    @property
    def hessian(self) -> Tensor:
        assert self.sums is not None
        return self.sums.hessian

    @property
    def ranged(self) -> Tensor:
        """The weight whose ranges the scales are made for: with AWQ's clipping, the weight cut to these ranges."""
        if not (self.recipe.awq and self.recipe.clip and is_clipped(self.where)):
            return self.weight
        return clipped(self.weight, self.hessian, self.recipe.grid, self.dtype)


@dataclass(frozen=True)
class Rounded:
    """A rounded weight; `damped_more`: more damping than the recipe's was needed."""

    weight: QuantizedWeight
    damped_more: bool = False


def round_weight(task: Task) -> Rounded:
    """Round a weight by its recipe. Raises InputError as the method does."""
    return _METHODS[task.recipe.rounding](task)


def _rtn(task: Task) -> Rounded:
    return Rounded(round_to_nearest(task.ranged, task.recipe.grid, task.dtype))


def _gptq(task: Task) -> Rounded:
    settings = GptqSettings(task.recipe.damp, task.recipe.block, task.recipe.order)
    shift = None if task.sums is None else task.sums.mean_shift
    found = gptq(task.weight, task.hessian, task.recipe.grid, task.dtype, settings, task.place, shift, task.ranged)
    return Rounded(found.weight, found.damped_more)


def _hqq(task: Task) -> Rounded:
    return Rounded(hqq(task.weight, task.recipe.grid, task.dtype))


def _billm(task: Task) -> Rounded:
    settings = BillmSettings(task.recipe.damp, task.recipe.block, task.recipe.masks)
    found = billm(task.weight, task.hessian, task.dtype, settings, task.place)
    return Rounded(found.weight, found.damped_more)


_METHODS: Mapping[Rounding, Callable[[Task], Rounded]] = {
    Rounding.RTN: _rtn,
    Rounding.GPTQ: _gptq,
    Rounding.HQQ: _hqq,
    Rounding.BILLM: _billm,
}
