"""int8 matrix product, dequantized in its epilogue: x [M, K] and weight [N, K] in int8 to [M, N] in x's dtype.

There are two kernels. One addresses tiles by pointers, and can split K among programs; the last program to finish adds
the int32 parts, which is exact in any order. The other is persistent and uses Hopper's bulk tensor copies (the pattern
of Triton's tutorial 09). Both are tuned (`tuning`) at the first call for a shape.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from int8.kernels.arithmetic import dequantized
from int8.kernels.tuning import Tiles, meta, run


@triton.jit
def _tile_of(index, M, N, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """Row and column of a tile. Tiles are ordered in groups of GROUP rows, so that their operands stay in the cache."""
    rows = tl.cdiv(M, BM)
    group = GROUP * tl.cdiv(N, BN)
    first = index // group * GROUP
    size = tl.minimum(rows - first, GROUP)
    return first + index % group % size, index % group // size


@triton.jit
def _store(
    out, acc, rows, columns, scales, zero_points, column_scales, row_sums, bias, M, N,
    PER_TOKEN: tl.constexpr, SYMMETRIC: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    if PER_TOKEN:
        scale = tl.load(scales + rows, mask=rows < M, other=0.0)[:, None]
        zero_point = tl.load(zero_points + rows, mask=rows < M, other=0)[:, None]
    else:
        scale = tl.load(scales)
        zero_point = tl.load(zero_points)
    y = dequantized(acc, scale, zero_point, columns, columns < N, column_scales, row_sums, bias, SYMMETRIC, BIAS)
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(out + rows.to(tl.int64)[:, None] * N + columns[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["M"])
def _gemm(
    x, weight, out, scales, zero_points, column_scales, row_sums, bias, parts, arrivals, M, N, K,
    PER_TOKEN: tl.constexpr, SYMMETRIC: tl.constexpr, BIAS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    part = tl.program_id(1)
    row_tile, column_tile = _tile_of(tile, M, N, BM, BN, GROUP)
    rows = row_tile * BM + tl.arange(0, BM)
    columns = column_tile * BN + tl.arange(0, BN)
    x_rows = x + (rows % M).to(tl.int64)[:, None] * K
    weight_rows = weight + (columns % N).to(tl.int64)[None, :] * K
    acc = tl.zeros((BM, BN), tl.int32)
    for start in range(part * BK, K, BK * SPLIT_K):
        k = start + tl.arange(0, BK)
        left = tl.load(x_rows + k[None, :], mask=(k < K)[None, :], other=0)
        right = tl.load(weight_rows + k[:, None], mask=(k < K)[:, None], other=0)
        acc = tl.dot(left, right, acc, out_dtype=tl.int32)
    if SPLIT_K == 1:
        _store(
            out, acc, rows, columns, scales, zero_points, column_scales, row_sums, bias, M, N,
            PER_TOKEN, SYMMETRIC, BIAS,
        )  # fmt: skip
    else:
        inside = tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :]
        tl.store(parts + (part * tl.num_programs(0) + tile).to(tl.int64) * (BM * BN) + inside, acc)
        tl.debug_barrier()  # all threads must have stored their part before one reports it
        if tl.atomic_add(arrivals + tile, 1, sem="acq_rel") == SPLIT_K - 1:
            total = tl.zeros((BM, BN), tl.int32)
            for other in range(SPLIT_K):
                place = parts + (other * tl.num_programs(0) + tile).to(tl.int64) * (BM * BN)
                total += tl.load(place + inside, cache_modifier=".cg")
            tl.store(arrivals + tile, 0)  # the next call expects 0
            _store(
                out, total, rows, columns, scales, zero_points, column_scales, row_sums, bias, M, N,
                PER_TOKEN, SYMMETRIC, BIAS,
            )  # fmt: skip


@triton.jit(do_not_specialize=["M", "PROGRAMS"])
def _persistent(
    x, weight, out, scales, zero_points, column_scales, row_sums, bias, M, N, K, PROGRAMS,
    PER_TOKEN: tl.constexpr, SYMMETRIC: tl.constexpr, BIAS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """`x` and `weight` are descriptors. A program computes every PROGRAMS-th tile, and loads the next while storing."""
    tiles = tl.cdiv(M, BM) * tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True):
        row_tile, column_tile = _tile_of(tile, M, N, BM, BN, GROUP)
        acc = tl.zeros((BM, BN), tl.int32)
        for k in range(tl.cdiv(K, BK)):
            left = x.load([row_tile * BM, k * BK])
            right = weight.load([column_tile * BN, k * BK])
            acc = tl.dot(left, right.T, acc, out_dtype=tl.int32)
        rows = row_tile * BM + tl.arange(0, BM)
        columns = column_tile * BN + tl.arange(0, BN)
        _store(
            out, acc, rows, columns, scales, zero_points, column_scales, row_sums, bias, M, N,
            PER_TOKEN, SYMMETRIC, BIAS,
        )  # fmt: skip


_MOST_TILES = 1 << 16  # with split K: tiles of products with up to 256 rows
_ARRIVALS: dict[tuple[torch.device, int], Tensor] = {}
_IN_GRAPHS = -1


def _arrivals(device: torch.device) -> Tensor:
    """The number of finished parts of each tile: zero between calls.

    There is one tensor per stream, which runs its calls in order, and one for all recorded graphs, of which only one at
    a time may run on a device. A call before the first recording creates it.
    """
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    if capturing and (device, _IN_GRAPHS) not in _ARRIVALS:
        return torch.zeros(_MOST_TILES, dtype=torch.int32, device=device)
    if not capturing:
        for place in ((device, stream), (device, _IN_GRAPHS)):
            if place not in _ARRIVALS:
                _ARRIVALS[place] = torch.zeros(_MOST_TILES, dtype=torch.int32, device=device)
    return _ARRIVALS[device, _IN_GRAPHS if capturing else stream]


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def gemm(
    q: Tensor, scales: Tensor, zero_points: Tensor, weight: Tensor, weight_scale: Tensor, row_sums: Tensor,
    bias: Tensor | None, symmetric: bool, dtype: torch.dtype, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """The dequantized product [M, N] in `dtype`, from q [M, K] and weight [N, K], both int8 and contiguous.

    `scales` (float32) and `zero_points` (int32) are [M], or [] for all rows. weight_scale (float32), row_sums (int32)
    and bias are [N]. `tiles` replaces the fastest tiles.
    """
    rows, depth = q.shape
    columns = weight.shape[0]
    out = torch.empty((rows, columns), dtype=dtype, device=q.device)
    options = _options(scales, symmetric, bias)

    def launch(tiles: Tiles) -> None:
        count = triton.cdiv(rows, tiles.bm) * triton.cdiv(columns, tiles.bn)
        held = tiles.split * count * tiles.bm * tiles.bn if tiles.split > 1 else 1
        parts = torch.empty(held, dtype=torch.int32, device=q.device)
        _gemm[(count, tiles.split)](
            q, weight, out, scales, zero_points, weight_scale, row_sums, weight_scale if bias is None else bias,
            parts, _arrivals(q.device), rows, columns, depth, **options, **meta(tiles, _gemm),
        )  # fmt: skip

    if tiles is not None:
        launch(tiles)
    else:
        run("gemm", rows, (columns, depth, *options.values()), q.device, launch)
    return out


def persistent_gemm(
    q: Tensor, scales: Tensor, zero_points: Tensor, weight: Tensor, weight_scale: Tensor, row_sums: Tensor,
    bias: Tensor | None, symmetric: bool, dtype: torch.dtype, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """Like `gemm`, but K must be a multiple of 16 and the GPU's compute capability at least 9.0."""
    rows, depth = q.shape
    columns = weight.shape[0]
    out = torch.empty((rows, columns), dtype=dtype, device=q.device)
    options = _options(scales, symmetric, bias)

    def launch(tiles: Tiles) -> None:
        count = triton.cdiv(rows, tiles.bm) * triton.cdiv(columns, tiles.bn)
        programs = min(_processors(q.device) * tiles.per_processor, count)
        x = TensorDescriptor(q, [rows, depth], [depth, 1], [tiles.bm, tiles.bk])
        w = TensorDescriptor(weight, [columns, depth], [depth, 1], [tiles.bn, tiles.bk])
        _persistent[(programs,)](
            x, w, out, scales, zero_points, weight_scale, row_sums, weight_scale if bias is None else bias,
            rows, columns, depth, programs, **options, **meta(tiles, _persistent),
        )  # fmt: skip

    if tiles is not None:
        launch(tiles)
    else:
        run("persistent", rows, (columns, depth, *options.values()), q.device, launch)
    return out


def _options(scales: Tensor, symmetric: bool, bias: Tensor | None) -> dict[str, bool]:
    return {"PER_TOKEN": scales.dim() == 1, "SYMMETRIC": symmetric, "BIAS": bias is not None}
