"""Linear layers of Qwen3's shapes: BF16 (cuBLAS) compared with each path of the int8 kernels, and their correctness.

Weights rotate among copies that together are much larger than the L2 cache, like the layers of a model. Activations
stay in the cache, like the output of the previous layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from int8.arithmetic import QuantizedLinear, quantize_weight
from int8.kernels.paths import KernelPath, choose
from int8.linear import Int8Linear
from int8.recipe import Activations
from int8_gpu.qwen3_shape import Qwen3Shape
from int8_gpu.report import say
from int8_gpu.timing import Call, GpuMachine, TimeBudget, milliseconds

SMALL = 128  # W8A16 is measured up to this number of tokens
ENOUGH = 1.02  # the path of the table counts as the fastest if it takes at most this multiple of the fastest time


class LinearPair:
    """A linear layer of one shape on both sides: copies of a BF16 weight, and of the same weight in int8."""

    def __init__(self, machine: GpuMachine, inputs: int, outputs: int) -> None:
        self.machine, self.inputs, self.outputs = machine, inputs, outputs
        copies = max(1, min(96, -(-3 * machine.cache_bytes // (inputs * outputs))))
        weight = torch.randn(outputs, inputs, device=machine.device, dtype=torch.bfloat16)
        quantized, self.scale = quantize_weight(weight)
        self.sums = quantized.sum(1, dtype=torch.int32)
        self.bf16 = [weight.clone() for _ in range(copies)]
        self.int8 = [quantized.clone() for _ in range(copies)]

    def paths(self, tokens: int) -> list[KernelPath]:
        fits = {
            KernelPath.SKINNY: tokens <= 16,
            KernelPath.GEMM: tokens > 1,
            KernelPath.PERSISTENT: tokens > 32 and self.inputs % 16 == 0 and self.machine.capability >= (9, 0),
        }
        return [path for path, holds in fits.items() if holds]

    def product(self, path: KernelPath, x: Tensor, weight: Tensor) -> Tensor:
        from int8.kernels import linear

        return linear.by_path(path, x, weight, self.scale, self.sums, None, None, None, False)

    def weight_only(self, x: Tensor, weight: Tensor) -> Tensor:
        from int8.kernels import linear

        found: Tensor = linear.w8a16(x, weight, self.scale, None)
        return found

    def milliseconds(self, tokens: int) -> dict[str, float]:
        """Milliseconds of BF16, of every possible path, and of W8A16 for few tokens."""
        x = torch.randn(tokens, self.inputs, device=self.machine.device, dtype=torch.bfloat16)
        sides: dict[str, list[Call]] = {"bf16": [lambda w=w: x @ w.t() for w in self.bf16]}
        for path in self.paths(tokens):
            sides[path] = [lambda w=w, path=path: self.product(path, x, w) for w in self.int8]
        if tokens <= SMALL:
            sides["w8a16"] = [lambda w=w: self.weight_only(x, w) for w in self.int8]
        return dict(zip(sides, milliseconds(self.machine, list(sides.values())), strict=True))


def correctness(machine: GpuMachine) -> list[str]:
    """Compare each path with exact arithmetic on random tokens, for shapes that are no multiples of a tile."""
    lines = ["| path | M | K | N | largest relative error |", "|---|--:|--:|--:|--:|"]
    shapes = [(1, 4096, 1040), (16, 2064, 1000), (300, 4112, 1100)] if machine.device == "cuda" else [(5, 96, 40)]
    for tokens, inputs, outputs in shapes:
        linear = LinearPair(replace(machine, cache_bytes=1), inputs, outputs)
        x = torch.randn(tokens, inputs, device=machine.device) * torch.rand(tokens, 1, device=machine.device) + 0.3
        x = x.bfloat16()
        weight = linear.int8[0]
        exact = Int8Linear(QuantizedLinear(weight.cpu(), linear.scale.cpu()), Activations.DYNAMIC)(x.cpu().float())
        floats = x.cpu().double() @ (weight.cpu().double() * linear.scale.cpu().double()[:, None]).t()
        for name, made, expected in [
            *((str(path), linear.product(path, x, weight), exact.double()) for path in linear.paths(tokens)),
            ("w8a16", linear.weight_only(x, weight), floats),
        ]:
            if machine.device == "cpu" and name == "w8a16":  # the interpreter cannot multiply bfloat16 matrices
                continue
            error = float((made.cpu().double() - expected).norm() / expected.norm())
            verdict = "" if error < 4e-3 else ", WRONG"
            lines.append(f"| {name} | {tokens} | {inputs} | {outputs} | {error:.1e}{verdict} |")
    return lines


@dataclass(frozen=True)
class LinearTiming:
    sizes: str
    layer: str
    tokens: int
    inputs: int
    outputs: int
    times: dict[str, float]
    path: str

    @property
    def ratio(self) -> float:
        return self.times["bf16"] / self.times[self.path]

    @property
    def fastest(self) -> str:
        return min((name for name in self.times if name not in ("bf16", "w8a16")), key=self.times.__getitem__)

    def line(self, machine: GpuMachine) -> str:
        ms = self.times[self.path]
        rate = 2e3 * self.tokens * self.inputs * self.outputs / ms
        moved = 1e3 * (self.inputs * self.outputs + 2 * self.tokens * (self.inputs + self.outputs)) / ms
        others = ", ".join(
            f"{name} {1e3 * found:.1f}" for name, found in self.times.items() if name not in ("bf16", self.path)
        )
        return (
            f"| {self.sizes} | {self.layer} | {self.inputs} | {self.outputs} | {self.tokens} |"
            f" {1e3 * self.times['bf16']:.1f} | {1e3 * ms:.1f} | {self.ratio:.2f} | {self.path} | {rate / 1e12:.0f} |"
            f" {100 * rate / machine.int8:.0f} | {moved / 1e9:.0f} | {100 * moved / machine.copy:.0f} | {others} |"
        )


CELLS = (
    "| model | layer | K | N | M | BF16, µs | int8, µs | ratio | path | TOP/s | % of int8 ceiling | GB/s |"
    " % of copy ceiling | other paths, µs |\n|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|---|"
)


def shapes_of(
    sizes: Sequence[str], shapes: dict[str, Qwen3Shape]
) -> dict[tuple[int, int], tuple[list[str], list[str]]]:
    """(inputs, outputs) -> the models and layers with this shape."""
    found: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
    for size in sizes:
        for layer, shape in shapes[size].linears().items():
            models, layers = found.setdefault(shape, ([], []))
            models.append(size)
            if layer not in layers:
                layers.append(layer)
    return found


def linear_cells(
    machine: GpuMachine,
    budget: TimeBudget,
    shapes: dict[str, Qwen3Shape],
    sizes: Sequence[str],
    all_tokens: Sequence[int],
) -> Iterator[LinearTiming]:
    for (inputs, outputs), (models, layers) in shapes_of(sizes, shapes).items():
        linear = LinearPair(machine, inputs, outputs)
        for tokens in all_tokens:
            if budget.seconds < 20:
                return
            times = linear.milliseconds(tokens)
            path = choose(tokens, inputs, machine.capability).path
            yield LinearTiming(", ".join(models), ", ".join(layers), tokens, inputs, outputs, times, path)
            say(f"{inputs} x {outputs}, {tokens} tokens: {times}")


def verdicts(cells: Sequence[LinearTiming]) -> list[str]:
    """Compare the results with the targets, and list shapes for which the table of paths is not the fastest."""
    large = [c.ratio for c in cells if c.tokens >= 2048 and min(c.inputs, c.outputs) >= 4096]
    lines = (
        [f"- M ≥ 2048 and K, N ≥ 4096: smallest ratio {min(large):.2f} (target: 1.4), of {len(large)}"] if large else []
    )
    least = min(cells, key=lambda c: c.ratio)
    below = sum(c.ratio < 0.95 for c in cells)
    lines.append(
        f"- anywhere: smallest ratio {least.ratio:.2f}, at M {least.tokens}, K {least.inputs}, N {least.outputs}"
        f" (target: 0.95); below 0.95: {below} of {len(cells)}"
    )
    slower = [c for c in cells if c.times[c.path] > ENOUGH * c.times[c.fastest]]
    lines += [
        f"- another path is faster at M {c.tokens}, K {c.inputs}, N {c.outputs}: {c.fastest} by"
        f" {c.times[c.path] / c.times[c.fastest]:.2f} over {c.path}"
        for c in slower
    ]
    return lines
