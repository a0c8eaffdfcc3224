"""A random Qwen3 model with each kind of linear layer, compared with BF16: prefill, decode, and launch costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from int8.arithmetic import QuantizedLinear, quantize_weight
from int8.linear import Int8Linear
from int8.recipe import Activations, Dequantizer
from int8_gpu.qwen3_shape import Qwen3Shape, RandomDecoder
from int8_gpu.timing import Call, GpuMachine, TimeBudget, milliseconds

INTERNAL, WEIGHTS = "int8, fp32-internal", "only int8 weights"


def kinds() -> dict[str, Callable[[nn.Linear], nn.Module]]:
    """Row of the table -> the function that replaces a linear layer."""
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


def steps(machine: GpuMachine, model: RandomDecoder, tokens: Sequence[int], context: int) -> list[Call]:
    """Calls: a prefill for each length in `tokens`, then a decode step. Each returns the last token's logits."""
    for layer in model.layers:
        if machine.device == "cuda":
            layer.compile(dynamic=False)
    torch.manual_seed(0)
    return [*(model.step(n, n) for n in tokens), model.step(1, context)]


@torch.no_grad()
def model_lines(
    machine: GpuMachine,
    budget: TimeBudget,
    shape: Qwen3Shape,
    tokens: Sequence[int],
    context: int,
    chosen: Sequence[str] | None,
) -> Iterator[str]:
    """A row for each chosen kind (all if None) of one random model, measured in turn with BF16."""
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(1)
    before = steps(machine, RandomDecoder(shape, torch.bfloat16, machine.device), tokens, context)
    expected = before[0]().float()
    heads = [*(f"prefill {n}" for n in tokens), "decode"]
    yield f"| kind | {' | '.join(f'{head}, ms | BF16, ms | ratio' for head in heads)} | tokens/s | logits differ by |"
    yield "|---|" + "--:|" * (3 * len(heads) + 2)
    for name, make in kinds().items():
        if chosen and name not in chosen:
            continue
        if budget.seconds < 60:
            yield f"\n{name} and all further rows were skipped, because no time was left."
            return
        torch.manual_seed(1)
        model = RandomDecoder(shape, torch.bfloat16, machine.device).replace_linear(make)
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
def eager_lines(machine: GpuMachine, shape: Qwen3Shape, context: int) -> Iterator[str]:
    """The time of a decode step launched from Python, op by op, as transformers does; it shows the launch costs."""
    yield "| kind | decode step without graph or compiler, ms |"
    yield "|---|--:|"
    every = {"BF16": lambda layer: layer, **kinds()}
    for name in ("BF16", INTERNAL, WEIGHTS):
        call = RandomDecoder(shape, torch.bfloat16, machine.device).replace_linear(every[name]).step(1, context)
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


def synchronize(machine: GpuMachine) -> None:
    if machine.device == "cuda":
        torch.cuda.synchronize()


def fitted(work: Callable[[Qwen3Shape], Iterator[str]], shape: Qwen3Shape) -> Iterator[str]:
    """Do the work on `shape`, or on half of its layers if the GPU's memory is too small."""
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
