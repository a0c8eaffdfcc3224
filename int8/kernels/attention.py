"""Attention of a prefill on int8 Q, K and V: scores in int32, an online softmax, probabilities in float.

Method: FlashAttention-2 (arXiv 2307.08691) with int8 scores. Of the zero points' terms in a score only the one that
depends on the key is kept, because a term that is the same for all keys of a query does not change the softmax. V's
scale does not depend on the token, so it is applied once, at the end. V minus its zero point is at most 255, which
bfloat16 holds exactly.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from int8.arithmetic import Quantizer, Quantizers
from int8.kernels.arithmetic import to_int8

WIDTHS = (32, 64, 128, 256)
"""Head widths that the kernel supports."""
_LOG2_E = 1.4426950408889634


@triton.jit(do_not_specialize=["tokens"])
def _quantize_heads(
    x, out, scales, zero_points, heads, tokens, batch_stride, head_stride, token_stride, of_heads, of_channels,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per block of tokens of a head. Scales of heads are `of_heads` apart, of channels `of_channels`."""
    sequence = tl.program_id(1).to(tl.int64)
    head = sequence % heads
    token = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    channel = tl.arange(0, WIDTH)[None, :]
    place = sequence // heads * batch_stride + head * head_stride + token.to(tl.int64) * token_stride + channel
    values = tl.load(x + place, mask=token < tokens, other=0.0).to(tl.float32)
    scale = tl.load(scales + head * of_heads + channel * of_channels)
    zero_point = tl.load(zero_points + head * of_heads + channel * of_channels).to(tl.float32)
    q = to_int8(values, scale, zero_point)
    tl.store(out + (sequence * tokens + token) * WIDTH + channel, q, mask=token < tokens)


def quantize_heads(x: Tensor, quantizer: Quantizer) -> Tensor:
    """x [batch, heads, tokens, width] (last stride 1) as int8, contiguous."""
    batch, heads, tokens, width = x.shape
    out = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale, zero_point = quantizer.scale.contiguous(), quantizer.zero_point.contiguous()
    of_heads = scale.shape[1] if scale.shape[0] > 1 else 0
    _quantize_heads[(triton.cdiv(tokens, 32), batch * heads)](
        x, out, scale, zero_point, heads, tokens, x.stride(0), x.stride(1), x.stride(2), of_heads,
        int(scale.shape[1] > 1), WIDTH=width, BLOCK=32,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["queries", "keys"])
def _attention(
    q, k, v, out, mask, q_scale, q_zero_point, k_scale, v_scale, v_zero_point, scaling, heads, groups, queries, keys,
    q_of_heads, k_of_heads, v_of_heads, v_of_channels, mask_of_batch,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(1).to(tl.int64)
    batch, head = sequence // heads, sequence % heads
    kv_head = head // groups
    kv_sequence = batch * (heads // groups) + kv_head
    first = tl.program_id(0) * BM
    row = first + tl.arange(0, BM)
    channel = tl.arange(0, WIDTH)
    queried = tl.load(
        q + (sequence * queries + row)[:, None] * WIDTH + channel[None, :], mask=(row < queries)[:, None], other=0
    )
    step = tl.load(q_scale + head * q_of_heads) * tl.load(k_scale + kv_head * k_of_heads) * scaling
    q_zero = tl.load(q_zero_point + head * q_of_heads)
    v_zero = tl.load(v_zero_point + kv_head * v_of_heads + channel * v_of_channels)[None, :]
    mask_rows = mask + batch * mask_of_batch + row.to(tl.int64)[:, None] * keys
    high = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    mixed = tl.zeros((BM, WIDTH), tl.float32)
    end = tl.minimum(first + BM, keys) if CAUSAL else keys
    for start in range(0, end, BN):
        column = start + tl.arange(0, BN)
        place = (kv_sequence * keys + column) * WIDTH
        key = tl.load(k + place[None, :] + channel[:, None], mask=(column < keys)[None, :], other=0)
        products = tl.dot(queried, key, out_dtype=tl.int32) - q_zero * tl.sum(key.to(tl.int32), 0)[None, :]
        seen = (column < keys)[None, :] & (row < queries)[:, None]
        if CAUSAL:
            seen = seen & (column[None, :] <= row[:, None])
        if MASKED:
            seen = seen & (tl.load(mask_rows + column[None, :], mask=seen, other=0) != 0)
        scores = tl.where(seen, products.to(tl.float32) * step, -float("inf"))
        above = tl.maximum(high, tl.max(scores, 1))
        base = tl.where(above == -float("inf"), 0.0, above)  # for a query that has seen no key yet
        shares = tl.exp2(scores - base[:, None])
        fade = tl.exp2(high - base)
        total = total * fade + tl.sum(shares, 1)
        value = tl.load(v + place[:, None] + channel[None, :], mask=(column < keys)[:, None], other=0)
        level = (value.to(tl.int32) - v_zero).to(tl.float32).to(out.dtype.element_ty)
        mixed = tl.dot(shares.to(out.dtype.element_ty), level, mixed * fade[:, None], input_precision="ieee")
        high = above
    scale = tl.load(v_scale + kv_head * v_of_heads + channel * v_of_channels)[None, :]
    y = mixed / tl.where(total > 0, total, 1.0)[:, None] * scale
    place = ((batch * queries + row)[:, None] * heads + head) * WIDTH + channel[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty), mask=(row < queries)[:, None])


def attention(
    q: Tensor, k: Tensor, v: Tensor, quantizers: Quantizers, mask: Tensor | None, scaling: float, causal: bool,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The attention output, [batch, queries, heads, width] in `dtype`.

    q is int8 [batch, heads, queries, width]; k and v are int8 [batch, kv_heads, keys, width]; all contiguous, with a
    `width` in WIDTHS. mask, bool [batch or 1, 1, queries, keys], is True for the keys that a query sees.
    """
    batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    query, key, value = quantizers
    out = torch.empty((batch, queries, heads, width), dtype=dtype, device=q.device)
    given = out if mask is None else mask.expand(-1, 1, queries, keys).contiguous().view(torch.uint8)
    block, warps, step = blocks(queries, width, mask is not None) if q.is_cuda else (32, 4, 32)
    _attention[(triton.cdiv(queries, block), batch * heads)](
        q, k, v, out, given, query.scale.contiguous(), query.zero_point.contiguous(), key.scale.contiguous(),
        value.scale.contiguous(), value.zero_point.contiguous(), scaling * _LOG2_E, heads, heads // kv_heads, queries,
        keys, int(len(query.scale) > 1), int(len(key.scale) > 1),
        value.scale.shape[1] if len(value.scale) > 1 else 0, int(value.scale.shape[1] > 1),
        queries * keys if mask is not None and len(mask) > 1 else 0,
        CAUSAL=causal, MASKED=mask is not None, WIDTH=width, BM=block,
        BN=step, num_warps=warps, num_stages=3,
    )  # fmt: skip
    return out


def blocks(queries: int, width: int, masked: bool) -> tuple[int, int, int]:
    """Queries and warps per program, and keys per step: as many as keep all sums in registers."""
    if queries <= 32 or width > 128:
        return 32, 4, 32
    if masked:
        return 64, 4, 32
    return (64, 4, 64) if queries <= 64 else (128, 8, 64)
