"""Muon, as torch.optim.Muon with `match_rms_adamw` computes it, but with matrices multiplied in any dtype.

torch's own multiplies in bfloat16 only, which a CPU without bfloat16 instructions does thirty times as slowly.
Source: https://github.com/KellerJordan/Muon and arXiv 2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for matrices; their orthogonalization is computed in `dtype`."""

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(parameters, {"lr": 1e-3, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nothing here passes a closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - MOMENTUM)
                update = orthogonal(weight.grad.lerp(mean, MOMENTUM), self._dtype)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(weight.shape)))


def orthogonal(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix x with singular values near 1 (about 0.5 to 1.5), by Newton-Schulz iterations in `dtype`."""
    a, b, c = COEFFICIENTS
    tall = x.shape[0] > x.shape[1]
    found = (x.T if tall else x).to(dtype, copy=True)
    found.div_(found.norm().clamp(min=1e-7))
    for _ in range(STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found
