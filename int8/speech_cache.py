"""The KV cache of a speech model's decoder: past tokens for its self-attention, and the window for its cross-attention,
whose keys and values are computed once. In int8 if the recipe says so."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from int8.fakequant import quantizer_of
from int8.kv_cache import Int8CacheLayer, Int8Codec
from int8.recipe import Insertion, Recipe, Scales, Stacks


def speech_cache(model: PreTrainedModel, recipe: Recipe | None) -> EncoderDecoderCache:
    """A cache for `model`, with the recipe's quantizers attached; None: without quantization."""
    layers: Any = model.get_submodule("model.decoder.layers")
    caches = []
    for path, kind in (("self_attn", Int8CacheLayer), ("encoder_attn", Int8WindowLayer)):
        cache = DynamicCache()
        cache.layers = [_layer(layer.get_submodule(path), recipe, kind) for layer in layers]
        cache.layer_class_to_replicate = None
        caches.append(cache)
    return EncoderDecoderCache(*caches)


class Int8WindowLayer(DynamicLayer):
    """Keys and values of one cross-attention, stored once as their codecs say. transformers reads them as attributes,
    which are float."""

    def __init__(self, key: Int8Codec, value: Int8Codec) -> None:
        self._codecs = {"keys": key, "values": value}
        self._stored: dict[str, tuple[Tensor, ...]] = {}
        super().__init__()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store keys and values [sequences, heads, positions, width]; returns them as they are read."""
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        self.keys, self.values = key_states, value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._stored["keys"][0].shape[-2] if self._stored else 0

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for parts in self._stored.values() for part in parts)

    def _read(self, name: str) -> Tensor:
        return self._codecs[name].decode(*self._stored[name], dtype=self.dtype)

    def _store(self, name: str, states: Tensor | None) -> None:
        if states is not None and states.numel():
            self._stored[name] = self._codecs[name].encode(states)

    keys = property(lambda self: self._read("keys"), lambda self, states: self._store("keys", states))
    values = property(lambda self: self._read("values"), lambda self, states: self._store("values", states))


def _layer(attention: nn.Module, recipe: Recipe | None, kind: type[Int8CacheLayer | Int8WindowLayer]) -> DynamicLayer:
    if recipe is None or not recipe.int8_kv_cache or recipe.stacks is Stacks.ENCODER:
        return DynamicLayer()
    at_rope = recipe.insertion is Insertion.ROPE
    key = quantizer_of(attention, "key") if at_rope and recipe.query_key is not Scales.FLOAT else None
    value = quantizer_of(attention, "value") if at_rope and recipe.value is not Scales.FLOAT else None
    return kind(Int8Codec(key), Int8Codec(value))
