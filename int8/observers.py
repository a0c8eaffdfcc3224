"""Observers of what passes through a layer: the largest magnitude per channel, and ranges of values to quantize."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from converters.errors import InputError


class ChannelMaxObserver:
    """The largest |x| of each channel of all observed x [..., channels], float32 [channels]."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        if x.numel():
            low, high = torch.aminmax(x.detach().flatten(0, -2), dim=0)
            seen = torch.maximum(-low, high).float()
            self.value = seen if self.value is None else torch.maximum(self.value, seen)


class RangeObserver:
    """The range of observed values between two percentiles, per group of channels.

    x is [..., heads, width]. `grouping` says what has its own range: "tensor" (everything), "head" or "channel".
    `expected` is the largest number of values per group. For a percentile below 100 the tails of the distribution are
    kept, so the percentile is exact (nearest rank) and not estimated from a histogram.
    """

    def __init__(self, grouping: str, percentile: float = 100.0, expected: int = 1) -> None:
        self._grouping, self._fraction = grouping, 1 - percentile / 100
        self._kept = 1 + math.floor(self._fraction * expected + 1e-6)
        self._count = 0
        self._largest: Tensor | None = None  # [groups, kept], descending
        self._smallest: Tensor | None = None  # the same for -x

    def observe(self, x: Tensor) -> None:
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
        """Lowest and highest value, float32 [groups] each; None if nothing was observed."""
        if self._largest is None or self._smallest is None:
            return None
        at = min(math.floor(self._fraction * self._count + 1e-6), self._largest.shape[1] - 1)
        return -self._smallest[:, at].float(), self._largest[:, at].float()

    def _grouped(self, x: Tensor) -> Tensor:
        """x as [groups, values]."""
        if self._grouping == "tensor":
            return x.reshape(1, -1)
        if self._grouping == "head":
            return x.flatten(0, -3).transpose(0, 1).flatten(1)
        return x.flatten(0, -3).flatten(1).T

    def _top(self, groups: Tensor) -> Tensor:
        return groups.topk(min(self._kept, groups.shape[1]), 1).values


def require_finite(values: Tensor, where: str) -> None:
    """Raise InputError that names the layer if a statistic of its activations is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise InputError(
            f"{where}: its activations are NaN or infinite; the checkpoint is damaged, or overflows in its dtype"
        )
