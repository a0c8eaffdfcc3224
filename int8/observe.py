"""What passes through a layer, in figures: the largest magnitude of each channel, and ranges of what is quantized."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from converters.errors import InputError


class ChannelMax:
    """The largest |x| of each channel of x [..., channels] so far, float32 [channels]."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def see(self, x: Tensor) -> None:
        if x.numel():
            low, high = torch.aminmax(x.detach().flatten(0, -2), dim=0)
            seen = torch.maximum(-low, high).float()
            self.value = seen if self.value is None else torch.maximum(self.value, seen)


class Range:
    """The range of x between two percentiles, for each of some groups of its channels.

    x is [..., heads, width]; `grouping` says what has a range of its own: "tensor" (all of it), "head" or "channel".
    `expected` is how many values a group will hold at most. For a percentile below 100 the tails of the distribution
    are kept as they come, so the percentile is exact (nearest rank), not an estimate from a histogram.
    """

    def __init__(self, grouping: str, percentile: float = 100.0, expected: int = 1) -> None:
        self._grouping, self._fraction = grouping, 1 - percentile / 100
        self._kept = 1 + math.floor(self._fraction * expected + 1e-6)
        self._count = 0
        self._largest: Tensor | None = None  # [groups, kept], descending
        self._smallest: Tensor | None = None  # the same of -x

    def see(self, x: Tensor) -> None:
        if not x.numel():
            return
        groups = self._grouped(x.detach())
        self._count += groups.shape[1]
        if self._kept == 1:
            low, high = torch.aminmax(groups, dim=1, keepdim=True)
            smallest, largest = -low, high
        else:
            smallest, largest = self._top(-groups), self._top(groups)
        self._smallest = smallest if self._smallest is None else self._top(torch.cat([self._smallest, smallest], 1))
        self._largest = largest if self._largest is None else self._top(torch.cat([self._largest, largest], 1))

    def ends(self) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest value, float32 [groups] each; None where nothing was seen."""
        if self._largest is None or self._smallest is None:
            return None
        at = min(math.floor(self._fraction * self._count + 1e-6), self._largest.shape[1] - 1)
        return -self._smallest[:, at].float(), self._largest[:, at].float()

    def _grouped(self, x: Tensor) -> Tensor:
        """[groups, values]"""
        if self._grouping == "tensor":
            return x.reshape(1, -1)
        if self._grouping == "head":
            return x.flatten(0, -3).transpose(0, 1).flatten(1)
        return x.flatten(0, -3).flatten(1).T

    def _top(self, groups: Tensor) -> Tensor:
        return groups.topk(min(self._kept, groups.shape[1]), 1).values


def require_numbers(values: Tensor, where: str) -> None:
    """Raises InputError naming the layer if a statistic of its activations is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise InputError(
            f"{where}: its activations are NaN or infinite; a damaged checkpoint, or one that overflows in its dtype"
        )
