"""int8 linear layers for few tokens, quantized in the same launch, so that only the weight is read, once.

`gemv` is for one token, on the integer units; `skinny` is for up to 16 tokens, on the tensor cores. Every program
quantizes the tokens itself, which costs less than a second launch for so few tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from int8.kernels.arithmetic import dequantized, tile_range, to_int8
from int8.kernels.tuning import Tiles, meta, run

_RANGE = tl.constexpr(4096)  # columns that a program reads at once to find a token's range


@triton.jit
def _gemv(
    x, weight, out, input_scale, input_zero_point, column_scales, row_sums, bias, N, K,
    STATIC: tl.constexpr, SYMMETRIC: tl.constexpr, BIAS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    if STATIC:
        scale = tl.load(input_scale) + tl.zeros((1, 1), tl.float32)
        zero_point = tl.load(input_zero_point).to(tl.float32) + tl.zeros((1, 1), tl.float32)
    else:
        one = tl.arange(0, 1)
        scale, zero_point = tile_range(x, one, one == 0, K, K, 1, _RANGE, SYMMETRIC)
    weight_rows = weight + (columns % N).to(tl.int64)[:, None] * K
    sums = tl.zeros((BN, BK), tl.int32)
    for start in tl.range(0, K, BK, num_stages=STAGES):
        k = start + tl.arange(0, BK)[None, :]
        right = tl.load(weight_rows + k, mask=k < K, other=0)
        left = to_int8(tl.load(x + k, mask=k < K, other=0.0).to(tl.float32), scale, zero_point)
        sums += right.to(tl.int32) * left.to(tl.int32)
    acc = tl.sum(sums, 1)[None, :]
    y = dequantized(acc, scale, zero_point, columns, columns < N, column_scales, row_sums, bias, SYMMETRIC, BIAS)
    tl.store(out + columns[None, :], y.to(out.dtype.element_ty), mask=(columns < N)[None, :])


@triton.jit(do_not_specialize=["M"])
def _skinny(
    x, weight, out, input_scale, input_zero_point, column_scales, row_sums, bias, M, N, K,
    STATIC: tl.constexpr, SYMMETRIC: tl.constexpr, BIAS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    rows = tl.arange(0, BM)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    if STATIC:
        scale = tl.load(input_scale) + tl.zeros((BM, 1), tl.float32)
        zero_point = tl.load(input_zero_point).to(tl.float32) + tl.zeros((BM, 1), tl.float32)
    else:
        scale, zero_point = tile_range(x, rows, rows < M, K, K, BM, BK, SYMMETRIC)
    weight_rows = weight + (columns % N).to(tl.int64)[None, :] * K
    acc = tl.zeros((BM, BN), tl.int32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        mask = (rows < M)[:, None] & (k < K)[None, :]
        left = to_int8(
            tl.load(x + rows[:, None] * K + k[None, :], mask=mask, other=0.0).to(tl.float32), scale, zero_point
        )
        right = tl.load(weight_rows + k[:, None], mask=(k < K)[:, None], other=0)
        acc = tl.dot(left, right, acc, out_dtype=tl.int32)
    y = dequantized(acc, scale, zero_point, columns, columns < N, column_scales, row_sums, bias, SYMMETRIC, BIAS)
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(out + rows[:, None] * N + columns[None, :], y.to(out.dtype.element_ty), mask=mask)


def skinny(
    x: Tensor, scale: Tensor | None, zero_point: Tensor | None, weight: Tensor, weight_scale: Tensor, row_sums: Tensor,
    bias: Tensor | None, symmetric: bool, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """[M, N] in the dtype of x [M, K] (contiguous, M up to 16); weight is int8 [N, K].

    scale (float32) and zero_point (int32) are [] for static activations, None if each token has its own. `tiles`
    replaces the fastest tiles.
    """
    rows, depth = x.shape
    columns = weight.shape[0]
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    options = {"STATIC": scale is not None, "SYMMETRIC": symmetric, "BIAS": bias is not None}
    tensors = (
        x, weight, out, weight_scale if scale is None else scale, row_sums if zero_point is None else zero_point,
        weight_scale, row_sums, weight_scale if bias is None else bias,
    )  # fmt: skip

    def launch(tiles: Tiles) -> None:
        grid = (triton.cdiv(columns, tiles.bn),)
        if tiles.bm == 1:
            _gemv[grid](*tensors, columns, depth, **options, **meta(tiles, _gemv))
        else:
            _skinny[grid](*tensors, rows, columns, depth, **options, **meta(tiles, _skinny))

    if tiles is not None:
        launch(tiles)
    else:
        kernel = "gemv" if rows == 1 else "skinny"
        run(kernel, rows, (columns, depth, x.dtype, *options.values()), x.device, launch)
    return out
