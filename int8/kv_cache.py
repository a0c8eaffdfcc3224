"""Keys and values of past tokens held as int8, behind the interface of transformers' caches.

With the static scales of K and V where a recipe quantizes them after RoPE; otherwise with a symmetric scale for each
token and head, which needs no calibration. What attention gets is float again, in the model's dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from int8.fakequant import attentions, quantizer_of
from int8.quantize import Quantizer, dequantize, quantize, quantize_tokens
from int8.recipe import Insertion, Recipe, Scales


class Int8CacheLayer(DynamicLayer):
    """One attention layer: keys and values int8 [batch, heads, tokens, width]; without a quantizer of their own, scales
    float32 [batch, heads, tokens, 1] too."""

    def __init__(self, key: Quantizer | None = None, value: Quantizer | None = None) -> None:
        super().__init__()
        self._quantizers = (key, value)
        self.key_scales: Tensor | None = None
        self.value_scales: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (x[..., :0, :].to(torch.int8) for x in (key_states, value_states))
        self.key_scales, self.value_scales = (x[..., :0, :1].float() for x in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Adds what is new, and gives all of it as float."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        key, value = self._quantizers
        self.keys, self.key_scales, keys = _added(self.keys, self.key_scales, key_states, key)
        self.values, self.value_scales, values = _added(self.values, self.value_scales, value_states, value)
        return keys, values

    @property
    def nbytes(self) -> int:
        held = (self.keys, self.values, self.key_scales, self.value_scales)
        return sum(x.nbytes for x in held if x is not None)

    def reset(self) -> None:
        super().reset()
        self.key_scales = self.value_scales = None

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        if self.is_initialized:
            length = self.keys.shape[-2]
            self._each_scale(lambda scales: scales[..., :length, :])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._each_scale(lambda scales: scales.index_select(0, beam_idx.to(scales.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._each_scale(lambda scales: scales.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._each_scale(lambda scales: scales[indices, ...])

    def offload(self) -> None:
        super().offload()
        self._each_scale(lambda scales: scales.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        super().prefetch()
        self._each_scale(lambda scales: scales.to(self.device, non_blocking=True))

    def _each_scale(self, change: Any) -> None:
        if self.key_scales is not None and self.value_scales is not None:
            self.key_scales, self.value_scales = change(self.key_scales), change(self.value_scales)


def _added(
    held: Tensor, scales: Tensor | None, new: Tensor, quantizer: Quantizer | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """`held` with `new` behind it, in int8; the scales of all, and all as float in the dtype of `new`."""
    assert scales is not None
    if quantizer is not None:
        scale, zero_point = quantizer.scale[:, None], quantizer.zero_point[:, None]
        held = torch.cat((held, quantize(new, scale, zero_point)), -2)
        return held, scales, dequantize(held, scale, zero_point).to(new.dtype)
    q, scale, zero_point = quantize_tokens(new, symmetric=True)
    held, scales = torch.cat((held, q), -2), torch.cat((scales, scale), -2)
    return held, scales, (held.float() * scales).to(new.dtype)


def int8_cache(model: PreTrainedModel, recipe: Recipe) -> DynamicCache:
    """A cache for `model`, in which the recipe's quantizers are attached; give it as past_key_values.

    Layers of linear attention, and of sliding windows, keep what they have as it is.
    """
    cache = DynamicCache(config=model.config)
    at_rope = recipe.insertion is Insertion.ROPE
    for attention in attentions(model):
        key = quantizer_of(attention, "key") if at_rope and recipe.query_key is not Scales.FLOAT else None
        value = quantizer_of(attention, "value") if at_rope and recipe.value is not Scales.FLOAT else None
        index = int(attention.layer_idx)  # type: ignore[arg-type]
        if type(cache.layers[index]) is DynamicLayer:
            cache.layers[index] = Int8CacheLayer(key, value)
    return cache
