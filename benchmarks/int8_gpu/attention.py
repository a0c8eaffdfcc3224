"""Causal attention of a prefill: the int8 kernel compared with torch's flash attention in BF16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from int8.arithmetic import Quantizer, scale_and_zero_point
from int8_gpu.qwen3_shape import Qwen3Shape
from int8_gpu.timing import GpuMachine, milliseconds


@torch.no_grad()
def attention_lines(machine: GpuMachine, shape: Qwen3Shape, tokens: Sequence[int]) -> Iterator[str]:
    """A table of prefill times: quantization and the int8 kernel, compared with torch's flash attention in BF16."""
    from int8.kernels import attention

    yield "| tokens | BF16, ms | int8, ms | ratio | of which quantization, ms | relative difference from BF16 |"
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
    """Symmetric scales per head of x [1, heads, tokens, width]."""
    high = x.float().abs().amax((0, 2, 3))[:, None]
    return Quantizer(*scale_and_zero_point(-high, high, symmetric=True))
