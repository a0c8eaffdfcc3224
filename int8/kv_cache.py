"""A KV cache that holds past keys and values as int8, with the interface of transformers' caches.

It uses the static scales of K and V if the recipe quantizes them after RoPE; otherwise a symmetric scale per token and
head, which needs no calibration. Attention gets float values again, in the model's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from int8.arithmetic import Quantizer, dequantize, quantize, quantize_tokens
from int8.fakequant import attentions, quantizer_of
from int8.recipe import Insertion, Recipe, Scales


@dataclass(frozen=True)
class Int8Codec:
    """How keys or values are stored: with the scales of a quantizer, or with one scale per token and head."""

    quantizer: Quantizer | None = None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns int8 in the shape of `x` [..., heads, tokens, width], and scales.

        The scales are float32 [..., heads, tokens, 1]; with a quantizer, which has its own, [..., heads, tokens, 0].
        """
        if self.quantizer is None:
            q, scale, _ = quantize_tokens(x, symmetric=True)
            return q, scale
        return quantize(x, *self._static()), x[..., :0].float()

    def decode(self, *parts: Tensor, dtype: torch.dtype) -> Tensor:
        """The input of `encode`, up to the rounding to int8."""
        q, scales = parts
        if self.quantizer is None:
            return (q.float() * scales).to(dtype)
        return dequantize(q, *self._static()).to(dtype)

    def _static(self) -> tuple[Tensor, Tensor]:
        assert self.quantizer is not None
        return self.quantizer.scale[:, None], self.quantizer.zero_point[:, None]


class Int8CacheLayer(DynamicLayer):
    """The cache of one attention layer, with keys and values stored as their codecs say."""

    def __init__(self, key: Int8Codec | None = None, value: Int8Codec | None = None) -> None:
        super().__init__()
        self._codecs = (key or Int8Codec(), value or Int8Codec())
        self.key_scales: Tensor | None = None
        self.value_scales: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        given = (key_states[..., :0, :], value_states[..., :0, :])
        (self.keys, self.key_scales), (self.values, self.value_scales) = (
            codec.encode(x) for codec, x in zip(self._codecs, given, strict=True)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append new keys and values, and return all of them as float."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        key, value = self._codecs
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


def _added(held: Tensor, scales: Tensor | None, new: Tensor, codec: Int8Codec) -> tuple[Tensor, Tensor, Tensor]:
    """Append `new` to `held` in int8. Returns the int8 values, their scales, and the values as float like `new`."""
    assert scales is not None
    q, scale = codec.encode(new)
    held, scales = torch.cat((held, q), -2), torch.cat((scales, scale), -2)
    return held, scales, codec.decode(held, scales, dtype=new.dtype)


def int8_codecs(model: PreTrainedModel, recipe: Recipe) -> dict[int, tuple[Int8Codec, Int8Codec]]:
    """Layer -> codecs of keys and values, for the attention modules of `model` with the recipe's quantizers attached.

    Empty if the recipe keeps the cache in float.
    """
    if not recipe.int8_kv_cache:
        return {}
    at_rope = recipe.insertion is Insertion.ROPE
    found = {}
    for attention, _ in attentions(model):
        key = quantizer_of(attention, "key") if at_rope and recipe.query_key is not Scales.FLOAT else None
        value = quantizer_of(attention, "value") if at_rope and recipe.value is not Scales.FLOAT else None
        found[int(attention.layer_idx)] = (Int8Codec(key), Int8Codec(value))  # type: ignore[arg-type]
    return found


def int8_cache(model: PreTrainedModel, recipe: Recipe) -> DynamicCache:
    """A cache for `model` with the recipe's quantizers attached, to be passed as past_key_values.

    Layers of linear attention and of sliding windows keep transformers' own cache.
    """
    cache = DynamicCache(config=model.config)
    for index, codecs in int8_codecs(model, recipe).items():
        if type(cache.layers[index]) is DynamicLayer:
            cache.layers[index] = Int8CacheLayer(*codecs)
    return cache
