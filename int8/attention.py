"""The attention product on int8 Q, K and V, for prefill: scores in int8, probabilities float, V in int8.

Q, K and V have the static scales of their attention's quantizers, after RoPE. transformers calls it by name, as any
attention of its own. A decode step, whose product is bound by reading the keys, and what a recipe leaves float stay as
in fake-quant. On CUDA the kernel in int8/kernels/attention.py; elsewhere torch, where float32 holds the integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from int8.fakequant import fake_quant_attention, quantizer_of
from int8.linear import has_kernels
from int8.quantize import Quantizers, quantize
from int8.recipe import Recipe

ATTENTION = "bitsweep_int8"  # what transformers calls it
MAX_WIDTH = 256  # of a head: sums of as many products of integers up to 255 stay below 2**24, exact in float32


def attention_product(
    q: Tensor, k: Tensor, v: Tensor, quantizers: Quantizers, mask: Tensor | None, scaling: float, causal: bool
) -> Tensor:
    """float32 [batch, queries, heads, width] from int8 q [batch, heads, queries, width] and k, v [batch, kv_heads,
    keys, width], whose heads are shared by as many query heads. `mask` [batch or 1, 1 or heads, queries, keys] is added
    to the scores, or says where they count if it is bool; `causal`: a query sees the keys up to its own place.

    Raises ValueError for heads wider than MAX_WIDTH.
    """
    if q.shape[-1] > MAX_WIDTH:
        raise ValueError(f"heads of width {q.shape[-1]}; at most {MAX_WIDTH} are exact")
    query, key, value = quantizers
    shared = q.shape[1] // k.shape[1]
    queried, keyed, valued = (
        x.float() - quantizer.zero_point[:, None] for x, quantizer in ((q, query), (k, key), (v, value))
    )
    keyed, valued = (x.repeat_interleave(shared, 1) for x in (keyed, valued))
    step = query.scale[:, None] * _for_queries(key.scale, shared)[:, None] * scaling
    scores = (queried @ keyed.transpose(2, 3)) * step
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    mixed = scores.softmax(-1) @ valued * _for_queries(value.scale, shared)[:, None]
    return mixed.transpose(1, 2)


def _for_queries(scale: Tensor, shared: int) -> Tensor:
    """Scales of K or V [1 or kv_heads, ...] as the query heads that share them see them."""
    return scale if len(scale) == 1 else scale.repeat_interleave(shared, 0)


def int8_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What transformers calls: query [batch, heads, tokens, width] and so on to [batch, tokens, heads, width]."""
    recipe: Recipe = module.int8_recipe  # type: ignore[assignment]
    if not recipe.int8_attention or query.shape[2] == 1:
        return fake_quant_attention(module, query, key, value, attention_mask, **options)
    quantizers = quantizer_of(module, "query"), quantizer_of(module, "key"), quantizer_of(module, "value")
    given = (query, key, value)
    scaling = options.get("scaling") or query.shape[-1] ** -0.5
    causal = attention_mask is None and options.get("is_causal", getattr(module, "is_causal", True))
    if has_kernels(query.device) and _fits_kernel(query, attention_mask):
        from int8.kernels import attention

        q, k, v = (attention.quantize_heads(x, by) for x, by in zip(given, quantizers, strict=True))
        return attention.attention(q, k, v, quantizers, attention_mask, scaling, causal, query.dtype), None
    q, k, v = (quantize(x, by.scale[:, None], by.zero_point[:, None]) for x, by in zip(given, quantizers, strict=True))
    return attention_product(q, k, v, quantizers, attention_mask, scaling, causal).to(query.dtype), None


def _fits_kernel(query: Tensor, mask: Tensor | None) -> bool:
    from int8.kernels.attention import WIDTHS

    is_plain = mask is None or (mask.dtype is torch.bool and mask.shape[1] == 1)
    return query.shape[-1] in WIDTHS and is_plain and query.stride(-1) == 1


AttentionInterface.register(ATTENTION, int8_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
