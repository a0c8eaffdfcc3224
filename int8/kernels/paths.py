"""The path that an int8 linear layer takes for M tokens, K inputs and N outputs. This module does not import Triton.

The first rule of the table that applies is used. A rule names the path that should be the fastest for its shapes, or
the only path that works. benchmarks/int8_gpu measures all paths and BF16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class KernelPath(StrEnum):
    """The ways to compute the layer; int8/kernels/linear.py implements them."""

    SKINNY = "skinny"  # one launch, in which every program quantizes the tokens itself
    PERSISTENT = "persistent"  # quantize tokens, then a persistent product with bulk tensor copies
    GEMM = "gemm"  # quantize tokens, then a product in tiles, with K split among programs if that helps
    INT_MM = "int_mm"  # torch._int_mm, dequantized by torch


@dataclass(frozen=True)
class PathRule:
    """Applies to `min_m` to `max_m` tokens and up to `max_k` inputs, on GPUs with at least `capability`."""

    path: KernelPath
    reason: str
    min_m: int = 1
    max_m: int | None = None
    max_k: int | None = None
    k_multiple: int = 1
    capability: tuple[int, int] = (8, 0)

    def holds(self, m: int, k: int, capability: tuple[int, int]) -> bool:
        return (
            self.min_m <= m
            and (self.max_m is None or m <= self.max_m)
            and (self.max_k is None or k <= self.max_k)
            and k % self.k_multiple == 0
            and capability >= self.capability
        )


W8A8: Sequence[PathRule] = (
    PathRule(KernelPath.SKINNY, "one token: quantizing it in every program costs less than a second launch", max_m=1),
    PathRule(KernelPath.SKINNY, "few short tokens: as for one token", max_m=16, max_k=2048),
    PathRule(KernelPath.GEMM, "bound by reading the weight: narrow tiles, split K", max_m=256),
    PathRule(
        KernelPath.PERSISTENT,
        "bound by the matrix units: bulk copies feed them, and storing overlaps with the next tile's loads",
        k_multiple=16, capability=(9, 0),
    ),
    PathRule(KernelPath.GEMM, "the GPU has no bulk tensor copies, or they cannot address the rows"),
    PathRule(KernelPath.INT_MM, "the GPU has int8 matrix units, but Triton does not support it", capability=(7, 5)),
)  # fmt: skip
"""The reasons follow from the design. The bounds come from counting bytes and launches, not from GPU measurements."""

INT8_CAPABILITY = (7, 5)
"""The first NVIDIA GPUs with int8 matrix units (Turing)."""


def choose(m: int, k: int, capability: tuple[int, int]) -> PathRule:
    """The rule of W8A8 for m tokens of k inputs. Raises ValueError below INT8_CAPABILITY."""
    for line in W8A8:
        if line.holds(m, k, capability):
            return line
    raise ValueError(f"no int8 path for compute capability {capability[0]}.{capability[1]}")
