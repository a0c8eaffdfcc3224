"""What a recipe makes of a model, in bytes, from the shapes of its parameters alone: no torch, no weights.

`file` is what `int8.checkpoint.save` writes and `loaded` what the int8 model holds; tests compare both to the byte.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

from int8.architectures import ARCHITECTURES, AttentionModules, QuantizableArchitecture
from int8.recipe import Activations, Insertion, Recipe, Scales

FLOAT_BYTES = 2  # bfloat16, in which models are run and sweeps write checkpoints
_SCALE, _ZERO_POINT, _ROW_SUM, _FLOAT32 = 4, 4, 4, 4  # float32, int32, int32
_TELLS_NUMBERS = re.compile(r"[0-9?\[]")
"""What a pattern has that matches some experts and not others. Without it one stands for all of up to 75,000."""
_EMBEDDINGS = "model.embed_tokens.weight"
_UNKNOWN = QuantizableArchitecture(())
"""Stands for an architecture that int8 does not know, or that a config does not tell: as if it were like others."""


@dataclass(frozen=True)
class Linear:
    """Linear layers of one shape [rows, columns]; `paths` are theirs in the model."""

    paths: tuple[str, ...]
    rows: int
    columns: int


@dataclass(frozen=True)
class RecipeSizes:
    """Bytes of tensors: `file` in the checkpoint, `loaded` in memory, `active` what of the latter one token reads.

    `quantized` and `kept` count weights: those in int8, and those that stay float. `channels` are output channels of
    quantized layers and `static` the bytes of scales from calibration. `widest` counts values of the widest activation
    of one token, `largest` weights of the largest quantized layer.
    """

    file: int = 0
    loaded: int = 0
    active: int = 0
    quantized: int = 0
    kept: int = 0
    channels: int = 0
    static: int = 0
    widest: int = 0
    largest: int = 0

    @property
    def weights(self) -> int:
        return self.quantized + self.kept

    def __add__(self, other: RecipeSizes) -> RecipeSizes:
        together = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        together |= {name: max(getattr(self, name), getattr(other, name)) for name in ("widest", "largest")}
        return RecipeSizes(**together)


def recipe_sizes(
    parameters: Mapping[str, tuple[int, ...]],
    recipe: Recipe | None,
    model_type: str,
    *,
    tied: bool,
    experts_used: int,
    real: bool = True,
) -> RecipeSizes:
    """Sizes of a model with these `parameters` (see `DescribedSource.parameters`) under a recipe.

    Without a recipe all stays float. `tied`: the output is the embedding and has no weights of its own. Of each token
    `experts_used` experts read it. `real`: computed in int8, which holds a row sum for each output channel; fake-quant
    does not.
    """
    known = ARCHITECTURES.get(model_type, _UNKNOWN)
    linears = {name: _linear(name, shape, known) for name, shape in parameters.items()}
    total = RecipeSizes()
    for name, shape in parameters.items():
        linear = linears[name]
        if name == "lm_head.weight" and tied:
            continue
        if linear is not None:
            total += _sizes_of(linear, recipe, experts_used, real)
        elif recipe is not None and _is_quantized(linears.get(f"{name.removesuffix('.bias')}.weight"), recipe):
            total += _floats(math.prod(shape), _FLOAT32)  # the bias of a quantized layer
        else:
            # A token reads one row of embeddings that are not the output too.
            total += _floats(math.prod(shape), read=name != _EMBEDDINGS or tied)
    if recipe is not None:
        for scales in _attention_scales(parameters, recipe, known.attention):
            total += RecipeSizes(file=scales, loaded=scales, active=scales, static=scales)
    return total


def _floats(weights: int, size: int = FLOAT_BYTES, read: bool = True) -> RecipeSizes:
    count = size * weights
    return RecipeSizes(file=count, loaded=count, active=count if read else 0, kept=weights)


def _is_quantized(linear: Linear | None, recipe: Recipe) -> bool:
    return linear is not None and not recipe.keeps(linear.paths[0])


def _sizes_of(linear: Linear, recipe: Recipe | None, experts_used: int, real: bool) -> RecipeSizes:
    """Of all layers of one shape; of experts a token reads some."""
    count, weights = len(linear.paths), linear.rows * linear.columns
    used = min(experts_used, count) if count > 1 else 1
    taken = 0 if recipe is None else _taken(linear, recipe)
    total = replace(_floats((count - taken) * weights), widest=linear.rows * used)
    if recipe is not None and taken:
        static = _SCALE + _ZERO_POINT if recipe.activations is Activations.STATIC else 0
        held = weights + linear.rows * (_SCALE + (_ROW_SUM if real else 0)) + static
        total += RecipeSizes(
            file=taken * _stored(linear, recipe),
            loaded=taken * held,
            active=taken * held,
            quantized=taken * weights,
            channels=taken * linear.rows,
            static=taken * static,
            largest=weights,
        )
    return replace(total, active=total.active * used // count)


def kv_cell_bytes(recipe: Recipe | None, kv_heads: int, key_length: int, value_length: int) -> tuple[int, int]:
    """Bytes that the cache of one attention layer holds for one token: of keys and values, and of their scales.

    An int8 cache goes by the scales of K and V where the recipe quantizes them after RoPE; otherwise each token and
    head has a float32 scale for either (see `int8.kv_cache`).
    """
    values = kv_heads * (key_length + value_length)
    if recipe is None or not recipe.int8_kv_cache:
        return FLOAT_BYTES * values, 0
    at_rope = recipe.insertion is Insertion.ROPE
    by_token = [kind for kind in (recipe.query_key, recipe.value) if not at_rope or kind is Scales.FLOAT]
    return values, kv_heads * _SCALE * len(by_token)


def _taken(linear: Linear, recipe: Recipe) -> int:
    """How many of the layers are quantized."""
    if any(_TELLS_NUMBERS.search(pattern) for pattern in recipe.keep):
        return sum(not recipe.keeps(path) for path in linear.paths)
    return 0 if recipe.keeps(linear.paths[0]) else len(linear.paths)


def _stored(linear: Linear, recipe: Recipe) -> int:
    """Bytes of one quantized layer in the file (see `int8.compressed_tensors`)."""
    scales = _SCALE * linear.rows
    if recipe.activations is Activations.FLOAT:  # four weights to an int32, and the shape as two int64
        return 4 * linear.rows * -(-linear.columns // 4) + 16 + scales
    static = recipe.activations is Activations.STATIC
    return linear.rows * linear.columns + scales + static * (_SCALE + (not recipe.symmetric))


def _linear(name: str, shape: tuple[int, ...], known: QuantizableArchitecture) -> Linear | None:
    """The linear layers of decoder layers that a parameter is the weights of; None for any other parameter."""
    path, _, kind = name.rpartition(".")
    if not name.startswith("model.layers.") or kind != "weight" or path.split(".", 3)[3] in known.routers:
        return None
    if "*" in path and len(shape) == 3:
        return Linear(tuple(path.replace("*", str(i)) for i in range(shape[0])), *shape[1:])
    return Linear((path,), *shape) if len(shape) == 2 else None


def _attention_scales(
    parameters: Mapping[str, tuple[int, ...]], recipe: Recipe, attention: AttentionModules
) -> Iterator[int]:
    """Bytes of the scales and zero points of Q, K and V in each attention layer."""
    for name, shape in parameters.items():
        where, found, _ = name.partition(f".{attention.path}.{attention.query_norm}.weight")
        if not found:
            continue
        (width,) = shape
        heads, kv_heads = (
            parameters[f"{where}.{attention.path}.{module}.weight"][axis] // width
            for module, axis in ((attention.output, 1), (attention.key, 0))
        )
        for scales, count in ((recipe.query_key, heads), (recipe.query_key, kv_heads), (recipe.value, kv_heads)):
            number = {Scales.FLOAT: 0, Scales.TENSOR: 1, Scales.HEAD: count, Scales.CHANNEL: count * width}[scales]
            yield number * (_SCALE + _ZERO_POINT)
