"""Exact products of int8 matrices on the CPU.

torch._int_mm is fast on CPUs with AVX-512. On others of x86, it is about 20 times as slow as a product of float32
matrices (measured on a processor with AVX2), and float32 is exact here as long as sums stay up to 2**24. So the
integers are multiplied in float32 in blocks of as many inputs, and the blocks are added in int32.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor

EXACT_INPUTS = 1024  # 2**24 / 2**7 / 2**7: every sum of as many products of int8 numbers is exact in float32
FEWEST_TOKENS = 4  # with fewer, widening the weights costs more than it saves
OUTPUTS = 4096  # whose weights are widened at the same time, 16 MiB


def integer_product(q: Tensor, weight: Tensor) -> Tensor:
    """int32 [M, N] from q [M, K] and weight [N, K], both int8 on the CPU; exact up to K = 131072."""
    if len(q) < FEWEST_TOKENS or multiplies_int8():
        return torch._int_mm(q, weight.t())
    out = torch.zeros(len(q), len(weight), dtype=torch.int32)
    for start in range(0, q.shape[1], EXACT_INPUTS):
        inputs = slice(start, start + EXACT_INPUTS)
        wide = q[:, inputs].float()
        for first in range(0, len(weight), OUTPUTS):
            outputs = slice(first, first + OUTPUTS)
            out[:, outputs] += (wide @ weight[outputs, inputs].float().t()).to(torch.int32)
    return out


def multiplies_int8() -> bool:
    """Whether torch._int_mm is fast on this CPU. Of x86, it is on those with AVX-512."""
    return platform.machine().lower() not in ("x86_64", "amd64") or "AVX512" in torch.backends.cpu.get_cpu_capability()
