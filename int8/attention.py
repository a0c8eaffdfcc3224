"""The attention product on int8 Q, K and V for a prefill: scores in int8, probabilities in float, V in int8.

Q, K and V are quantized after RoPE with the static scales of the attention's quantizers. transformers calls this
function by name, like its own attention functions. Two cases are computed as in fake-quant: decode steps, whose speed
is bound by reading the keys, and what a recipe leaves float. On CUDA the kernel in int8/kernels/attention.py computes
the product; otherwise torch does, with the integers in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from int8.arithmetic import Quantizers, quantize
from int8.fakequant import fake_quant_attention, quantizer_of
from int8.linear import has_kernels
from int8.recipe import Recipe

ATTENTION = "bitsweep_int8"  # its name in transformers
MAX_WIDTH = 256  # of a head. Sums of 256 products of integers up to 255 stay below 2**24, which float32 holds exactly


def attention_product(
    q: Tensor, k: Tensor, v: Tensor, quantizers: Quantizers, mask: Tensor | None, scaling: float, causal: bool
) -> Tensor:
    """The attention output, float32 [batch, queries, heads, width].

    q is int8 [batch, heads, queries, width]; k and v are int8 [batch, kv_heads, keys, width], and each of their heads
    is shared by heads / kv_heads query heads. `mask` [batch or 1, 1 or heads, queries, keys] is added to the scores if
    it is float; if it is bool, it is True for visible keys. With `causal`, a query sees the keys up to its own
    position.

    Raises ValueError for heads wider than MAX_WIDTH.
    """
    if q.shape[-1] > MAX_WIDTH:
        raise ValueError(f"heads have width {q.shape[-1]}; the product is exact up to {MAX_WIDTH}")
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
    """Scales of K or V [1 or kv_heads, ...], repeated for the query heads that share each KV head."""
    return scale if len(scale) == 1 else scale.repeat_interleave(shared, 0)


def int8_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Called by transformers: from query [batch, heads, tokens, width] to output [batch, tokens, heads, width]."""
    recipe: Recipe | None = getattr(module, "int8_recipe", None)
    if recipe is None or not recipe.int8_attention or query.shape[2] == 1:
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
