"""The arithmetic of int8/arithmetic.py inside kernels: ranges, scales, rounding, and the epilogue of the int32 product.

Divisions are rounded as IEEE 754 says (Triton's own `/` is not), so that kernels round as the torch code does.
"""

from __future__ import annotations

import triton
import triton.language as tl

from int8.arithmetic import INT8_MAX, INT8_MIN, MIN_SCALE

_MIN = tl.constexpr(float(INT8_MIN))
_MAX = tl.constexpr(float(INT8_MAX))
_RANGE = tl.constexpr(float(INT8_MAX - INT8_MIN))
_MIN_SCALE = tl.constexpr(MIN_SCALE)
_STEPS = tl.constexpr(512.0)  # beyond it the result is clamped for every zero point
_HALF_EVEN = tl.constexpr(12582912.0)  # 1.5 * 2**23: a float32 this large has no fraction left


@triton.jit
def half_even(x):
    """x (float32, |x| < 2**22) rounded half to even."""
    return (x + _HALF_EVEN) - _HALF_EVEN


@triton.jit
def steps(x, scale):
    """x / scale rounded to a whole number, as float32."""
    return half_even(tl.minimum(tl.maximum(tl.div_rn(x, scale), -_STEPS), _STEPS))


@triton.jit
def to_int8(x, scale, zero_point):
    """x (float32) as int8; `scale` and `zero_point` (both float32) broadcast with it."""
    q = tl.minimum(tl.maximum(steps(x, scale) + zero_point, _MIN), _MAX)
    return q.to(tl.int32).to(tl.int8)


@triton.jit
def scale_and_zero_point(low, high, SYMMETRIC: tl.constexpr):
    """Scale and zero point, both float32, of the ranges from `low` to `high`."""
    low = tl.minimum(low, 0.0)
    high = tl.maximum(high, 0.0)
    if SYMMETRIC:
        scale = tl.maximum(tl.div_rn(tl.maximum(-low, high), low * 0.0 + _MAX), _MIN_SCALE)
        zero_point = scale * 0.0
    else:
        scale = tl.maximum(tl.div_rn(high - low, low * 0.0 + _RANGE), _MIN_SCALE)
        zero_point = tl.minimum(tl.maximum(-steps(low, scale) + _MIN, _MIN), _MAX)
    return scale, zero_point


@triton.jit
def tile_range(x, rows, row_mask, columns, stride, BM: tl.constexpr, BK: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Scale and zero point [BM, 1] of each of the rows (BM,) of x. They are NaN for a row with a value that is not
    finite, so that the output shows it."""
    low = tl.zeros((BM, BK), tl.float32)
    high = tl.zeros((BM, BK), tl.float32)
    for start in range(0, columns, BK):
        k = start + tl.arange(0, BK)
        mask = row_mask[:, None] & (k < columns)[None, :]
        tile = tl.load(x + rows[:, None] * stride + k[None, :], mask=mask, other=0.0).to(tl.float32)
        low = tl.minimum(low, tile, propagate_nan=tl.PropagateNan.ALL)
        high = tl.maximum(high, tile, propagate_nan=tl.PropagateNan.ALL)
    poison = tl.sum((high - low) * 0.0, 1)
    scale, zero_point = scale_and_zero_point(tl.min(low, 1), tl.max(high, 1), SYMMETRIC)
    return (scale + poison)[:, None], zero_point[:, None]


@triton.jit
def dequantized(
    acc,
    scale,
    zero_point,
    columns,
    mask,
    column_scales,
    row_sums,
    bias,
    SYMMETRIC: tl.constexpr,
    BIAS: tl.constexpr,
):
    """The int32 products `acc` as float32 [BM, BN]; scale and zero point are [BM, 1] or scalars, `columns` [BN].

    The zero point is subtracted in int32, which is exact: |acc| and |zero point * row sum| stay below 2**30 up to
    K = 65536.
    """
    if not SYMMETRIC:
        acc -= zero_point.to(tl.int32) * tl.load(row_sums + columns, mask=mask, other=0)[None, :]
    y = acc.to(tl.float32) * (scale * tl.load(column_scales + columns, mask=mask, other=0.0)[None, :])
    if BIAS:
        y += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)[None, :]
    return y
