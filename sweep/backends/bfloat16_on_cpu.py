"""Linear layers in bfloat16 on CPUs that have no instructions for it.

There, torch multiplies bfloat16 matrices about seven times as slowly as float32 ones (measured on a processor with
AVX2). The product of two bfloat16 numbers is exact in float32, and sums are float32 either way. So the layer is
computed in float32 and its output rounded to bfloat16: only the order of the sums differs.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

FEWEST_TOKENS = 4  # with fewer, widening the weights costs more than it saves
BLOCK = 1 << 22  # weights that are widened at the same time, 16 MiB


class WidenedLinear(nn.Linear):
    """A linear layer with weights in bfloat16, whose products are computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """From x [..., columns] to [..., rows], both bfloat16."""
        columns = x.shape[-1]
        if x.dtype is not torch.bfloat16 or x.numel() < FEWEST_TOKENS * columns:
            return linear(x, self.weight, self.bias)
        wide, step = x.float(), max(1, BLOCK // columns)
        out = torch.empty(*x.shape[:-1], self.out_features, dtype=x.dtype, device=x.device)
        for start in range(0, self.out_features, step):
            rows = slice(start, start + step)
            bias = None if self.bias is None else self.bias[rows].float()
            out[..., rows] = linear(wide, self.weight[rows].float(), bias)
        return out


def widen(model: nn.Module) -> None:
    """Compute the bfloat16 linear layers of a model on this CPU in float32, if the CPU cannot multiply bfloat16."""
    if multiplies_bfloat16():
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype is torch.bfloat16 and module.weight.device.type == "cpu":
            module.__class__ = WidenedLinear


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products, or is fast without. Of x86, those with AVX-512 are."""
    return platform.machine().lower() not in ("x86_64", "amd64") or "AVX512" in torch.backends.cpu.get_cpu_capability()
