"""Which path an int8 linear layer takes for M tokens, K inputs and N outputs. Free of Triton.

The first line of a table that fits is taken. A line is there because it was the fastest of the paths where it holds
(benchmarks/int8.py measures each of them beside BF16), or the only one that can do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Path(StrEnum):
    """`int8/kernels/linear.py` says what each one does."""

    SKINNY = "skinny"  # one launch: tokens quantized where they are used
    PERSISTENT = "persistent"  # tokens quantized, then a persistent product on bulk tensor copies
    GEMM = "gemm"  # tokens quantized, then a product in tiles, its K split among programs where that helps
    INT_MM = "int_mm"  # torch._int_mm, dequantized by torch


@dataclass(frozen=True)
class Line:
    """Taken for at most `max_m` tokens and at most `max_k` inputs, by a GPU of at least `capability`."""

    path: Path
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


W8A8: Sequence[Line] = (
    Line(Path.SKINNY, "one token: a second launch would cost more than quantizing it in every program", max_m=1),
    Line(Path.SKINNY, "few short tokens: the same", max_m=16, max_k=2048),
    Line(Path.GEMM, "the weight's bytes bound it: narrow tiles, split K", max_m=256),
    Line(
        Path.PERSISTENT, "the matrix units bound it: bulk copies feed them, storing hides behind the next tile's loads",
        k_multiple=16, capability=(9, 0),
    ),
    Line(Path.GEMM, "no bulk tensor copies on this GPU, or rows that they cannot address"),
    Line(Path.INT_MM, "int8 matrix units, but none that Triton compiles for", capability=(7, 5)),
)  # fmt: skip
"""The reasons are of design; the bounds were set by counting bytes and launches, not yet by measuring on a GPU."""

INT8_CAPABILITY = (7, 5)
"""The first NVIDIA GPUs with int8 matrix units (Turing)."""


def choose(m: int, k: int, capability: tuple[int, int]) -> Line:
    """The line of W8A8 for m tokens of k inputs. Raises ValueError below INT8_CAPABILITY."""
    for line in W8A8:
        if line.holds(m, k, capability):
            return line
    raise ValueError(f"no int8 path for compute capability {capability[0]}.{capability[1]}")
