"""Sizes in bytes of a speech model under a recipe, from the shapes of its tensors: without torch or weights.

What is not quantized keeps its dtype in the file, and is float32 in memory. Tests compare with the real sizes, to the
byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from converters.checkpoint import StoredTensor
from int8.architectures import SPEECH
from int8.recipe import Recipe, Scales
from int8.recipe_sizes import int8_quantization

_FLOAT32 = 4
_PAIR = 8  # a scale and a zero point
HEAD = "proj_out.weight"
"""The output, which is tied to the embeddings and has no weights of its own."""


@dataclass(frozen=True)
class SpeechSizes:
    """Bytes of the tensors in the file, and in memory; and the number of weights."""

    file: int
    loaded: int
    weights: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.file / self.weights


def speech_sizes(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], recipe: Recipe | None) -> SpeechSizes:
    """The sizes of a checkpoint with these tensors and this config; without a recipe everything stays float."""
    file = loaded = weights = 0
    quantized = {name.removesuffix(".weight") for name, tensor in tensors.items() if _takes(name, tensor, recipe)}
    for name, tensor in tensors.items():
        if name == HEAD:
            continue
        count, path = math.prod(tensor.shape), name.rpartition(".")[0]
        weights += count
        if recipe is None or path not in quantized:
            file, loaded = file + tensor.nbytes, loaded + _FLOAT32 * count
        elif name.endswith(".weight"):
            own = int8_quantization(replace(recipe, activations=recipe.activations_of(path)))
            rows, columns = tensor.shape
            one = own.bytes_of(rows, columns)
            file, loaded = file + one.file, loaded + one.held
        else:
            file, loaded = file + _FLOAT32 * count, loaded + _FLOAT32 * count
    scales = 0 if recipe is None else sum(_attention_scales(tensors, config, recipe))
    return SpeechSizes(file + scales, loaded + scales, weights)


def _takes(name: str, tensor: StoredTensor, recipe: Recipe | None) -> bool:
    """Whether a tensor is the weight of a linear layer that the recipe quantizes."""
    if recipe is None or ".layers." not in name or not name.endswith(".weight") or len(tensor.shape) != 2:
        return False
    return not recipe.keeps(name.removesuffix(".weight"))


def _attention_scales(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], recipe: Recipe) -> Iterator[int]:
    """Bytes of the scales and zero points of Q, K and V in each attention module."""
    for modules in SPEECH[config["model_type"]].attentions:
        for name, tensor in tensors.items():
            if not name.endswith(f".{modules.path}.{modules.query}.weight") or not recipe.stacks.include(name):
                continue
            heads = int(config["encoder_attention_heads" if ".encoder." in name else "decoder_attention_heads"])
            for scales in (recipe.query_key, recipe.query_key, recipe.value):
                count = {Scales.FLOAT: 0, Scales.TENSOR: 1, Scales.HEAD: heads, Scales.CHANNEL: tensor.shape[0]}[scales]
                yield count * _PAIR
