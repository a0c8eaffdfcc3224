"""Quantization of activations in one kernel: range, scale and rounding per token, or only rounding if static."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from int8.kernels.arithmetic import tile_range, to_int8


@triton.jit
def _quantize(
    x, out, scales, zero_points, columns, stride,
    STATIC: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row, which it reads twice (then from cache); if static, one program per block of a row."""
    rows = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    if STATIC:
        scale = tl.load(scales)
        zero_point = tl.load(zero_points).to(tl.float32)
    else:
        scale, zero_point = tile_range(x, rows, rows >= 0, columns, stride, 1, BLOCK, SYMMETRIC)
        tl.store(scales + rows[:, None], scale)
        tl.store(zero_points + rows[:, None], zero_point.to(tl.int32))
    for start in range(tl.program_id(1) * BLOCK, columns, BLOCK * tl.num_programs(1)):
        k = start + tl.arange(0, BLOCK)[None, :]
        tile = tl.load(x + rows[:, None] * stride + k, mask=k < columns, other=0.0).to(tl.float32)
        tl.store(out + rows[:, None] * columns + k, to_int8(tile, scale, zero_point), mask=k < columns)


def quantize_tokens(
    x: Tensor, scale: Tensor | None, zero_point: Tensor | None, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x [rows, columns] as int8, with scales (float32) and zero points (int32) [rows], or the given static ones."""
    rows, columns = x.shape
    out = torch.empty((rows, columns), dtype=torch.int8, device=x.device)
    static = scale is not None
    if scale is None or zero_point is None:
        scale = torch.empty(rows, dtype=torch.float32, device=x.device)
        zero_point = torch.empty(rows, dtype=torch.int32, device=x.device)
    block = min(triton.next_power_of_2(columns), 4096)
    grid = (rows, triton.cdiv(columns, block) if static else 1)
    _quantize[grid](
        x, out, scale, zero_point, columns, x.stride(0), STATIC=static, SYMMETRIC=symmetric, BLOCK=block,
        num_warps=8 if block >= 4096 else 4,
    )  # fmt: skip
    return out, scale, zero_point
