"""The arithmetic that fake-quant and real int8 share: scales, zero points, and rounding to int8 and back.

x ~ (q - zero_point) * scale with q in -128..127: x / scale is rounded half to even, the zero point is added, and the
sum is clamped. Everything is computed in float32, for any dtype of x. A symmetric scale is absmax / 127 with zero point
0. An asymmetric range is widened to include 0, which is then exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INT8_MIN, INT8_MAX = -128, 127
MIN_SCALE = 1e-12  # for an empty or nearly empty range: its values become 0, and there is no division by 0


@dataclass(frozen=True)
class QuantizedLinear:
    """A linear layer as stored by both fake-quant and real int8.

    weight int8 [out, in]; weight_scale float32 [out]; bias [out] in the model's dtype, or None. `input_scale` float32
    [] and `input_zero_point` int32 [] for static activations, None for dynamic or float ones.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None


@dataclass(frozen=True)
class Quantizer:
    """Static scales of Q, K or V: scale float32 and zero_point int32, which broadcast over [..., heads, head_dim].

    Both are [1, 1] (one per tensor), [heads, 1] (one per head) or [heads, head_dim] (one per channel).
    """

    scale: Tensor
    zero_point: Tensor


Quantizers = tuple[Quantizer, Quantizer, Quantizer]
"""The quantizers of Q, K and V."""


def scale_and_zero_point(low: Tensor, high: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32) of each range from `low` to `high`; all have the same shape."""
    low, high = low.float().clamp_max(0), high.float().clamp_min(0)
    if symmetric:
        scale = torch.maximum(-low, high) / INT8_MAX
        return scale.clamp_min(MIN_SCALE), torch.zeros_like(scale, dtype=torch.int32)
    scale = ((high - low) / (INT8_MAX - INT8_MIN)).clamp_min(MIN_SCALE)
    zero_point = INT8_MIN - torch.round(low / scale)
    return scale, zero_point.clamp(INT8_MIN, INT8_MAX).to(torch.int32)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """x (any float dtype) as int8 in the same shape; `scale` and `zero_point` broadcast with it."""
    return (torch.round(x.float() / scale) + zero_point).clamp(INT8_MIN, INT8_MAX).to(torch.int8)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """q (int8) as float32 in the same shape."""
    return (q.float() - zero_point) * scale


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """x rounded to int8 and back, in float32."""
    return dequantize(quantize(x, scale, zero_point), scale, zero_point)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [out, in] as int8 [out, in] and float32 scales [out], symmetric."""
    high = weight.float().abs().amax(1, keepdim=True)
    scale, zero_point = scale_and_zero_point(-high, high, symmetric=True)
    return quantize(weight, scale, zero_point), scale[:, 0]


def dequantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """float32 [out, in] from int8 [out, in] and scales [out]."""
    return weight.float() * scale[:, None]


def token_scales(x: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Dynamic scale (float32) and zero point (int32) of each token of x [..., width], both [..., 1]."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return scale_and_zero_point(low, high, symmetric)


def quantize_tokens(x: Tensor, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x [..., width] as int8 [..., width] with the scale and zero point [..., 1] of each token."""
    scale, zero_point = token_scales(x, symmetric)
    return quantize(x, scale, zero_point), scale, zero_point
