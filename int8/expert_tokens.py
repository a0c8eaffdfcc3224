"""Counting the calibration tokens of each expert, and giving tokens to experts that get too few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from int8.experts import Experts

FEW_TOKENS = 16  # experts with fewer tokens also read the first tokens of the text, as if these were routed to them
SHOWN_TOKENS = 1024  # the number of these first tokens


class ExpertTokens:
    """Counts the tokens of each expert of a layer, and provides tokens for experts that get too few."""

    def __init__(self, layer: nn.Module, stack: ExitStack) -> None:
        self._experts = next((module for module in layer.modules() if isinstance(module, Experts)), None)
        self._first: list[Tensor] = []
        self._counts = True
        self.counts: list[int] = []
        if self._experts is not None:
            self.counts = [0] * len(self._experts)
            hook = self._experts.register_forward_pre_hook(lambda _, inputs: self._count(*inputs))
            stack.callback(hook.remove)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Tokens that pass inside the block are not counted."""
        self._counts = False
        try:
            yield
        finally:
            self._counts = True

    def _count(self, hidden: Tensor, chosen: Tensor, _: Tensor) -> None:
        if not self._counts:
            return
        here = torch.bincount(chosen.flatten(), minlength=len(self.counts)).tolist()
        self.counts = [a + b for a, b in zip(self.counts, here, strict=True)]
        missing = SHOWN_TOKENS - sum(map(len, self._first))
        if missing > 0:
            self._first.append(hidden[:missing])

    def show_few(self) -> None:
        """Let experts with too few tokens read the first tokens of the text, so that they have statistics as well."""
        if self._experts is not None and min(self.counts) < FEW_TOKENS:
            first = torch.cat(self._first)
            for expert, count in zip(self._experts, self.counts, strict=True):
                if count < FEW_TOKENS:
                    expert(first)
