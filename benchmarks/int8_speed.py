"""int8 against BF16 on an NVIDIA GPU: linear layers of Qwen3's shapes, prefill and decode, and the dequantizers.

    PYTHONPATH=. python benchmarks/int8_speed.py [--minutes 9] [--sizes 8B,0.6B,...] [--out FILE.md] [--interpret]

Every figure is of work recorded in a CUDA graph, BF16 (cuBLAS) and int8 taking turns; medians of the turns. Weights
rotate among copies that together exceed the L2 cache by far, as the layers of a model do; activations stay, as what the
layer before has just written does. First each path is compared with exact integer arithmetic. The file is written anew
after each part, so that a run cut short leaves what it has; a part that the minutes left do not allow is left out.
`--interpret` runs the same code on tiny shapes in Triton's interpreter: it shows that it works, and no speed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from qwen3_shape import QWEN3, Decoder, Shape
from torch import Tensor, nn

from int8.kernels.paths import Path as KernelPath
from int8.kernels.paths import choose
from int8.linear import Int8Linear, int_matmul
from int8.quantize import QuantizedLinear, Quantizer, quantize_weight, scale_and_zero_point
from int8.recipe import Activations, Dequantizer

TOKENS = (1, 16, 128, 512, 2048, 8192)
SMALL = 128  # W8A16 is measured up to as many tokens
TURNS = 5
TURN_MS = 3.0  # of work in one turn, at least
INTERNAL, WEIGHTS = "int8, fp32-internal", "int8 weights alone"
ENOUGH = 1.02  # a path of the table this close to the fastest is taken as the fastest

Call = Callable[[], Any]


@dataclass(frozen=True)
class Machine:
    """Where it runs. Ceilings are measured: bytes read and written a second by a copy, and operations a second."""

    device: str
    name: str
    capability: tuple[int, int]
    cache_bytes: int
    copy: float = 0.0
    bf16: float = 0.0
    int8: float = 0.0


class Budget:
    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def seconds(self) -> float:
        return self._end - time.monotonic()


def milliseconds(machine: Machine, sides: Sequence[Sequence[Call]]) -> list[float]:
    """Of one call on each side. A side's calls are the same work on copies of its weight; the sides take turns."""
    for side in sides:
        for call in side:
            call()  # tuned, compiled, allocated
    if machine.device == "cpu":
        return [1e3 * min(_clock(side[0]) for _ in range(2)) for side in sides]
    graphs = [_graph(side) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    replays = [max(1, round(TURN_MS / max(_replay(graph, 1), 1e-3))) for graph in graphs]
    for _ in range(TURNS):
        for graph, count, found in zip(graphs, replays, times, strict=True):
            found.append(_replay(graph, count))
    return [statistics.median(found) / len(side) for found, side in zip(times, sides, strict=True)]


def _clock(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _graph(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            calls[0]()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def _replay(graph: torch.cuda.CUDAGraph, count: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def find_machine(interpret: bool) -> Machine:
    if interpret:
        return Machine("cpu", "Triton's interpreter on a CPU (no speed is measured)", (9, 0), 1 << 10)
    found = torch.cuda.get_device_properties(0)
    return Machine("cuda", found.name, (found.major, found.minor), getattr(found, "L2_cache_size", 50 << 20))


def measured_ceilings(machine: Machine) -> Machine:
    side = 8192 if machine.device == "cuda" else 64
    source = torch.randn(side * side, device=machine.device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=machine.device).bfloat16() for _ in range(2))
    q, w = (torch.randint(-127, 128, (side, side), device=machine.device).to(torch.int8) for _ in range(2))
    copy, bf16, int8 = milliseconds(
        machine, [[lambda: target.copy_(source)], [lambda: a @ b.t()], [lambda: int_matmul(q, w)]]
    )
    products = 2 * side**3 * 1e3
    return replace(machine, copy=2 * source.nbytes / copy * 1e3, bf16=products / bf16, int8=products / int8)


class Linear:
    """One shape on both sides: copies of a BF16 weight, and of its int8 one."""

    def __init__(self, machine: Machine, inputs: int, outputs: int) -> None:
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
        """Of bf16, every path that can, and w8a16 for few tokens."""
        x = torch.randn(tokens, self.inputs, device=self.machine.device, dtype=torch.bfloat16)
        sides: dict[str, list[Call]] = {"bf16": [lambda w=w: x @ w.t() for w in self.bf16]}
        for path in self.paths(tokens):
            sides[path] = [lambda w=w, path=path: self.product(path, x, w) for w in self.int8]
        if tokens <= SMALL:
            sides["w8a16"] = [lambda w=w: self.weight_only(x, w) for w in self.int8]
        return dict(zip(sides, milliseconds(self.machine, list(sides.values())), strict=True))


def correctness(machine: Machine) -> list[str]:
    """Each path against int64 on random tokens of a shape that fills no tile."""
    lines = ["| path | M | K | N | largest relative error |", "|---|--:|--:|--:|--:|"]
    shapes = [(1, 4096, 1040), (16, 2064, 1000), (300, 4112, 1100)] if machine.device == "cuda" else [(5, 96, 40)]
    for tokens, inputs, outputs in shapes:
        linear = Linear(replace(machine, cache_bytes=1), inputs, outputs)
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
class Cell:
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

    def line(self, machine: Machine) -> str:
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


def shapes_of(sizes: Sequence[str], shapes: dict[str, Shape]) -> dict[tuple[int, int], tuple[list[str], list[str]]]:
    """Models and layers that have each (inputs, outputs)."""
    found: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
    for size in sizes:
        for layer, shape in shapes[size].linears().items():
            models, layers = found.setdefault(shape, ([], []))
            models.append(size)
            if layer not in layers:
                layers.append(layer)
    return found


def linear_cells(
    machine: Machine, budget: Budget, shapes: dict[str, Shape], sizes: Sequence[str], all_tokens: Sequence[int]
) -> Iterator[Cell]:
    for (inputs, outputs), (models, layers) in shapes_of(sizes, shapes).items():
        linear = Linear(machine, inputs, outputs)
        for tokens in all_tokens:
            if budget.seconds < 20:
                return
            times = linear.milliseconds(tokens)
            path = choose(tokens, inputs, machine.capability).path
            yield Cell(", ".join(models), ", ".join(layers), tokens, inputs, outputs, times, path)
            say(f"{inputs} x {outputs}, {tokens} tokens: {times}")


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """What was asked for against what was found, and where the table of paths is not the fastest."""
    large = [c.ratio for c in cells if c.tokens >= 2048 and min(c.inputs, c.outputs) >= 4096]
    lines = (
        [f"- M ≥ 2048 and K, N ≥ 4096: smallest ratio {min(large):.2f} (asked: 1.4), of {len(large)}"] if large else []
    )
    least = min(cells, key=lambda c: c.ratio)
    below = sum(c.ratio < 0.95 for c in cells)
    lines.append(
        f"- anywhere: smallest ratio {least.ratio:.2f}, at M {least.tokens}, K {least.inputs}, N {least.outputs}"
        f" (asked: 0.95); below 0.95: {below} of {len(cells)}"
    )
    slower = [c for c in cells if c.times[c.path] > ENOUGH * c.times[c.fastest]]
    lines += [
        f"- another path is faster at M {c.tokens}, K {c.inputs}, N {c.outputs}: {c.fastest} by"
        f" {c.times[c.path] / c.times[c.fastest]:.2f} over {c.path}"
        for c in slower
    ]
    return lines


def kinds() -> dict[str, Callable[[nn.Linear], nn.Module]]:
    """What a linear layer becomes in each row of the model's table after BF16."""
    one, zero = torch.tensor(0.03), torch.tensor(0, dtype=torch.int32)

    def real(activations: Activations, mode: Dequantizer) -> Callable[[nn.Linear], nn.Module]:
        def make(layer: nn.Linear) -> nn.Module:
            static = (one, zero) if activations is Activations.STATIC else (None, None)
            state = QuantizedLinear(*quantize_weight(layer.weight.detach()), None, *static)
            return Int8Linear(state, activations, False, mode).to(layer.weight.device)

        return make

    def fake(layer: nn.Linear) -> nn.Module:
        from int8.fakequant import FakeQuantLinear
        from int8.recipe import NAMED

        return FakeQuantLinear(QuantizedLinear(*quantize_weight(layer.weight.detach())), NAMED["w8a8-dyn"])

    return {
        INTERNAL: real(Activations.DYNAMIC, Dequantizer.FP32_INTERNAL),
        WEIGHTS: real(Activations.FLOAT, Dequantizer.FP32_INTERNAL),
        "int8 static, fp32-internal": real(Activations.STATIC, Dequantizer.FP32_INTERNAL),
        "int8, fp32-upcast": real(Activations.DYNAMIC, Dequantizer.FP32_UPCAST),
        "int8, bf16": real(Activations.DYNAMIC, Dequantizer.BF16),
        "fake-quant": fake,
    }


def steps(machine: Machine, model: Decoder, tokens: Sequence[int], context: int) -> list[Call]:
    """A prefill of each of `tokens`, then a decode step; each gives the last token's logits."""
    for layer in model.layers:
        if machine.device == "cuda":
            layer.compile(dynamic=False)
    torch.manual_seed(0)
    return [*(model.step(n, n) for n in tokens), model.step(1, context)]


@torch.no_grad()
def model_lines(
    machine: Machine, budget: Budget, shape: Shape, tokens: Sequence[int], context: int, chosen: Sequence[str] | None
) -> Iterator[str]:
    """The chosen kinds (None: all) of one random model, each a row and each taking turns with BF16."""
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(1)
    before = steps(machine, Decoder(shape, torch.bfloat16, machine.device), tokens, context)
    expected = before[0]().float()
    heads = [*(f"prefill {n}" for n in tokens), "decode"]
    yield f"| kind | {' | '.join(f'{head}, ms | BF16, ms | ratio' for head in heads)} | tokens/s | logits off BF16's |"
    yield "|---|" + "--:|" * (3 * len(heads) + 2)
    for name, make in kinds().items():
        if chosen and name not in chosen:
            continue
        if budget.seconds < 60:
            yield f"\n{name} and what follows: no time was left."
            return
        torch.manual_seed(1)
        model = Decoder(shape, torch.bfloat16, machine.device).replace_linear(make)
        if name.endswith(Dequantizer.FP32_UPCAST):
            model.float()
        after = steps(machine, model, tokens, context)
        off = float((after[0]().float() - expected).norm() / expected.norm())
        pairs = [milliseconds(machine, [[a], [b]]) for a, b in zip(before, after, strict=True)]
        cells = " | ".join(f"{ours:.2f} | {theirs:.2f} | {theirs / ours:.2f}" for theirs, ours in pairs)
        yield f"| {name} | {cells} | {1e3 / pairs[-1][1]:.1f} | {off:.1e} |"
        del model, after
        if machine.device == "cuda":
            torch.cuda.empty_cache()


@torch.no_grad()
def eager_lines(machine: Machine, shape: Shape, context: int) -> Iterator[str]:
    """A decode step launched from Python, op by op, as transformers runs a model: what launching costs."""
    yield "| kind | decode step without graph or compiler, ms |"
    yield "|---|--:|"
    every = {"BF16": lambda layer: layer, **kinds()}
    for name in ("BF16", INTERNAL, WEIGHTS):
        call = Decoder(shape, torch.bfloat16, machine.device).replace_linear(every[name]).step(1, context)
        for _ in range(3):
            call()
        times = []
        for _ in range(20):
            synchronize(machine)
            start = time.perf_counter()
            call()
            synchronize(machine)
            times.append(1e3 * (time.perf_counter() - start))
        yield f"| {name} | {statistics.median(times):.2f} |"


def synchronize(machine: Machine) -> None:
    if machine.device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def attention_lines(machine: Machine, shape: Shape, tokens: Sequence[int]) -> Iterator[str]:
    """Causal attention of a prefill: quantizing and the int8 kernel beside torch's flash attention in BF16."""
    from int8.kernels import attention

    yield "| tokens | BF16, ms | int8, ms | ratio | of which quantizing, ms | off BF16's |"
    yield "|--:|--:|--:|--:|--:|--:|"
    dtype = torch.bfloat16 if machine.device == "cuda" else torch.float32
    for n in tokens:
        q, k, v = (
            torch.randn(1, n, heads, shape.head_dim, device=machine.device, dtype=dtype).transpose(1, 2)
            for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
        )
        quantizers = per_head(q), per_head(k), per_head(v)
        scaling = shape.head_dim**-0.5

        def ints(q: Tensor = q, k: Tensor = k, v: Tensor = v, by: Any = quantizers) -> tuple[Tensor, Tensor, Tensor]:
            return (
                attention.quantize_heads(q, by[0]),
                attention.quantize_heads(k, by[1]),
                attention.quantize_heads(v, by[2]),
            )

        def ours(ints: Any = ints, by: Any = quantizers, scaling: float = scaling) -> Tensor:
            return attention.attention(*ints(), by, None, scaling, True, dtype)

        def theirs(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

        expected = theirs().float()
        off = float((ours().float() - expected).norm() / expected.norm())
        before, after, quantizing = milliseconds(machine, [[theirs], [ours], [ints]])
        yield f"| {n} | {before:.3f} | {after:.3f} | {before / after:.2f} | {quantizing:.3f} | {off:.1e} |"


def per_head(x: Tensor) -> Quantizer:
    """Of x [1, heads, tokens, width], symmetric."""
    high = x.float().abs().amax((0, 2, 3))[:, None]
    return Quantizer(*scale_and_zero_point(-high, high, symmetric=True))


def fitted(work: Callable[[Shape], Iterator[str]], shape: Shape) -> Iterator[str]:
    """The work on `shape`, or on half of its layers where the GPU's memory is too small; once."""
    try:
        yield from work(shape)
        return
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
    half = replace(shape, layers=shape.layers // 2)
    yield f"\nWith {shape.layers} layers the GPU ran out of memory; {half.layers} layers:\n"
    try:
        yield from work(half)
    except torch.cuda.OutOfMemoryError:
        yield f"\nThe GPU has too little memory for {half.layers} layers of this shape."


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Report:
    """Markdown, written anew after each part. A part that fails says so, and the others go on."""

    def __init__(self, out: Path | None, title: str) -> None:
        self._out, self._text = out, title
        self.failed = False

    @contextmanager
    def part(self, title: str) -> Iterator[list[str]]:
        lines: list[str] = []
        start = time.monotonic()
        try:
            yield lines
        except Exception as error:  # whatever a driver or compiler does on a machine not seen before
            self.failed = True
            lines.append(f"\nFailed: {type(error).__name__}: {str(error)[:2000]}")
        say(f"{title}: {time.monotonic() - start:.0f} s")
        self._text += f"\n\n## {title}\n\n" + "\n".join(lines)
        if self._out:
            self._out.write_text(self._text + "\n")

    def __str__(self) -> str:
        return self._text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sizes", default="8B,0.6B,32B,1.7B,14B,4B", help="of Qwen3, the most wanted first")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--interpret", action="store_true")
    given = parser.parse_args()
    if not given.interpret and not torch.cuda.is_available():
        say("no NVIDIA GPU is here; --interpret runs the same code without one, for its results and not its speed")
        return 4
    if given.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        from int8.linear import require_int8

        require_int8(torch.device("cuda"))
    import triton

    budget, machine = Budget(given.minutes), find_machine(given.interpret)
    shapes, all_tokens, large, prefills, context = QWEN3, TOKENS, "8B", (2048, 8192), 512
    sizes = given.sizes.split(",")
    if given.interpret:
        shapes, all_tokens, large = {"tiny": Shape(64, 96, 2, 1, 1, 64, 32)}, (1, 5), "tiny"
        sizes, prefills, context = ["tiny"], (8,), 4
    versions = f"torch {torch.__version__}, triton {triton.__version__}, CUDA {torch.version.cuda}"
    report = Report(given.out, f"# int8 against BF16: {machine.name}\n\n{versions}; {time.strftime('%Y-%m-%d')}")
    with report.part("Ceilings, measured") as lines:
        machine = measured_ceilings(machine)
        lines.append(
            f"Copy {machine.copy / 1e9:.0f} GB/s (read and written), BF16 {machine.bf16 / 1e12:.0f} TFLOP/s (cuBLAS),"
            f" int8 {machine.int8 / 1e12:.0f} TOP/s (cuBLASLt, int32 out); products of 8192³ random values."
        )
    with report.part("Against exact integer arithmetic") as lines:
        lines += correctness(machine)
    cells: list[Cell] = []

    def linear_part(some: Sequence[str]) -> None:
        with report.part(f"Linear layers: {', '.join(some)}") as lines:
            lines.append(CELLS)
            for cell in linear_cells(machine, budget, shapes, some, all_tokens):
                cells.append(cell)
                lines.append(cell.line(machine))

    linear_part(sizes[:1])
    with report.part(f"A random model of Qwen3-{large}'s shape, batch 1, decode after {context} tokens") as lines:
        rows = fitted(lambda s: model_lines(machine, budget, s, prefills, context, (INTERNAL, WEIGHTS)), shapes[large])
        for line in rows:
            lines.append(line)  # at once: a later row may fail
    few = replace(shapes[large], layers=min(4, shapes[large].layers))
    with report.part("The dequantizers: 4 of its layers") as lines:
        for line in fitted(lambda s: model_lines(machine, budget, s, prefills[:1], context, None), few):
            lines.append(line)
    with report.part("Launched one by one: 4 of its layers") as lines:
        for line in eager_lines(machine, few, context):
            lines.append(line)
    with report.part(f"Attention of a prefill, Qwen3-{large}'s heads") as lines:
        for line in attention_lines(machine, shapes[large], prefills):
            lines.append(line)
    if sizes[1:]:
        linear_part(sizes[1:])
    with report.part("Asked and found") as lines:
        lines += verdicts(cells) if cells else ["No linear layer was measured."]
    print(report)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
