"""int8 weights with float activations (W8A16): a matrix-vector product for one token, tiles for more tokens.

The weight is converted to float in registers, exactly, and its scale is applied to the float32 sums. In tiles the
weight is the left operand, because Hopper's matrix units can read only the left one from registers; therefore the sums
are transposed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from int8.kernels.tuning import Tiles, meta, run


@triton.jit
def _weight_gemv(
    x, weight, out, column_scales, bias, N, K, BIAS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    weight_rows = weight + (columns % N).to(tl.int64)[:, None] * K
    sums = tl.zeros((BN, BK), tl.float32)
    for start in tl.range(0, K, BK, num_stages=STAGES):
        k = start + tl.arange(0, BK)[None, :]
        right = tl.load(weight_rows + k, mask=k < K, other=0)
        sums += right.to(tl.float32) * tl.load(x + k, mask=k < K, other=0.0).to(tl.float32)
    y = tl.sum(sums, 1) * tl.load(column_scales + columns, mask=columns < N, other=0.0)
    if BIAS:
        y += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)
    tl.store(out + columns, y.to(out.dtype.element_ty), mask=columns < N)


@triton.jit(do_not_specialize=["M"])
def _weight_gemm(
    x, weight, out, column_scales, bias, M, N, K,
    BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Consecutive programs share a block of the weight, and GROUP of them also share a block of tokens."""
    row_tiles = tl.cdiv(M, BM)
    group = GROUP * tl.cdiv(N, BN)
    index = tl.program_id(0)
    first = index // group * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    rows = (first + index % group % size) * BM + tl.arange(0, BM)
    columns = index % group // size * BN + tl.arange(0, BN)
    x_rows = x + (rows % M).to(tl.int64)[None, :] * K
    weight_rows = weight + (columns % N).to(tl.int64)[:, None] * K
    sums = tl.zeros((BN, BM), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(weight_rows + k[None, :], mask=(k < K)[None, :], other=0).to(x.dtype.element_ty)
        right = tl.load(x_rows + k[:, None], mask=(k < K)[:, None], other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
    y = sums * tl.load(column_scales + columns, mask=columns < N, other=0.0)[:, None]
    if BIAS:
        y += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[:, None]
    mask = (columns < N)[:, None] & (rows < M)[None, :]
    tl.store(out + rows.to(tl.int64)[None, :] * N + columns[:, None], y.to(out.dtype.element_ty), mask=mask)


def weight_only(
    x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, tiles: Tiles | None = None
) -> Tensor:
    """[M, N] in the dtype of x [M, K] (contiguous); weight int8 [N, K], weight_scale float32 [N], bias [N]."""
    rows, depth = x.shape
    columns = weight.shape[0]
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    given = weight_scale if bias is None else bias

    def launch(tiles: Tiles) -> None:
        if tiles.bm == 1:
            _weight_gemv[(triton.cdiv(columns, tiles.bn),)](
                x, weight, out, weight_scale, given, columns, depth, BIAS=bias is not None,
                **meta(tiles, _weight_gemv),
            )  # fmt: skip
        else:
            _weight_gemm[(triton.cdiv(columns, tiles.bn) * triton.cdiv(rows, tiles.bm),)](
                x, weight, out, weight_scale, given, rows, columns, depth, BIAS=bias is not None,
                **meta(tiles, _weight_gemm),
            )  # fmt: skip

    if tiles is not None:
        launch(tiles)
    else:
        kernel = "weight gemv" if rows == 1 else "weight gemm"
        run(kernel, rows, (columns, depth, x.dtype, bias is not None), x.device, launch)
    return out
