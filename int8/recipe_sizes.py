"""Sizes in bytes of a model under a recipe, computed from the shapes of its parameters: without torch or weights.

`file` is the size of what `int8.checkpoint.save` writes, `loaded` the size of the int8 model in memory. Tests compare
both with the real sizes, to the byte.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

from int8.architectures import ARCHITECTURES, AttentionModules, QuantizableArchitecture
from int8.recipe import Activations, Insertion, Recipe, Scales

FLOAT_BYTES = 2  # bfloat16, in which models are run and sweeps write checkpoints
_SCALE, _ZERO_POINT, _ROW_SUM, _FLOAT32 = 4, 4, 4, 4  # float32, int32, int32
_MATCHES_NUMBERS = re.compile(r"[0-9?\[]")
"""Whether a pattern may match only some experts. If not, one expert stands for all of them (up to 75,000)."""
_EMBEDDINGS = "model.embed_tokens.weight"
_UNKNOWN = QuantizableArchitecture(())
"""Used for an architecture that int8 does not support or that is unknown: it is treated like the others."""


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers of one shape [rows, columns]; `paths` are their paths in the model."""

    paths: tuple[str, ...]
    rows: int
    columns: int


@dataclass(frozen=True)
class LinearBytes:
    """Bytes of one quantized linear layer: in the file, in memory, and of the latter the static scales of its input."""

    file: int
    held: int
    static: int = 0


@dataclass(frozen=True)
class Quantization:
    """How linear layers are stored: `bytes_of` a weight [rows, columns], bytes per value of their biases, and the
    patterns of the paths of layers that stay float."""

    keep: tuple[str, ...]
    bytes_of: Callable[[int, int], LinearBytes]
    bias_bytes: int = FLOAT_BYTES

    def keeps(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.keep)

    def taken(self, paths: tuple[str, ...]) -> int:
        """The number of these layers, which are alike, that are quantized."""
        if any(_MATCHES_NUMBERS.search(pattern) for pattern in self.keep):
            return sum(not self.keeps(path) for path in paths)
        return 0 if self.keeps(paths[0]) else len(paths)


@dataclass(frozen=True)
class RecipeSizes:
    """Bytes of tensors of the text model: `file` in the checkpoint, `loaded` in memory, `active` the part of `loaded`
    read per token. `tower` are the bytes of the vision tower in the checkpoint, in addition.

    `quantized` and `kept` are numbers of weights: in int8, and in float. `channels` is the number of output channels of
    quantized layers, `static` the bytes of scales from calibration, `widest` the number of values of the widest
    activation per token, `largest` the number of weights of the largest quantized layer.
    """

    file: int = 0
    tower: int = 0
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
    head_width: int | None = None,
    real: bool = True,
) -> RecipeSizes:
    """Sizes of a model with these `parameters` (see `HuggingFaceSource.parameters`) under a recipe.

    Without a recipe everything stays float. `tied`: the output is the embedding, and has no weights of its own.
    `experts_used` is the number of experts per token, `head_width` the width of an attention head, which only models
    without norms of heads need. `real`: real int8, which also holds one row sum per output
    channel; fake-quant does not.
    """
    quantization = None if recipe is None else int8_quantization(recipe, real)
    total = model_sizes(parameters, quantization, model_type, tied=tied, experts_used=experts_used)
    if recipe is not None:
        known = ARCHITECTURES.get(model_type, _UNKNOWN)
        for scales in _attention_scales(parameters, recipe, known.attention, head_width):
            total += RecipeSizes(file=scales, loaded=scales, active=scales, static=scales)
    return total


def int8_quantization(recipe: Recipe, real: bool = True) -> Quantization:
    """How a recipe stores linear layers in files, and in memory: as real int8, or as fake-quant."""

    def bytes_of(rows: int, columns: int) -> LinearBytes:
        static = _SCALE + _ZERO_POINT if recipe.activations is Activations.STATIC else 0
        held = rows * columns + rows * (_SCALE + (_ROW_SUM if real else 0)) + static
        return LinearBytes(_stored(rows, columns, recipe), held, static)

    return Quantization(recipe.keep, bytes_of, _FLOAT32)


def model_sizes(
    parameters: Mapping[str, tuple[int, ...]],
    quantization: Quantization | None,
    model_type: str,
    *,
    tied: bool,
    experts_used: int,
) -> RecipeSizes:
    """Sizes of a model whose linear layers are stored by `quantization`; the arguments are those of `recipe_sizes`."""
    known = ARCHITECTURES.get(model_type, _UNKNOWN)
    linears = {name: _linear(name, shape, known) for name, shape in parameters.items()}
    total = RecipeSizes()
    for name, shape in parameters.items():
        linear = linears[name]
        if name == "lm_head.weight" and tied:
            continue
        if linear is not None:
            total += _sizes_of(linear, quantization, experts_used)
        elif quantization is not None and _is_quantized(
            linears.get(f"{name.removesuffix('.bias')}.weight"), quantization
        ):
            total += _floats(math.prod(shape), quantization.bias_bytes)
        else:
            # A token reads only one row of the embeddings, unless they are also the output.
            total += _floats(math.prod(shape), read=name != _EMBEDDINGS or tied)
    return total


def linear_groups(parameters: Mapping[str, tuple[int, ...]], model_type: str) -> Iterator[LinearGroup]:
    """All linear layers of the decoder's layers, whether a recipe keeps them or not."""
    known = ARCHITECTURES.get(model_type, _UNKNOWN)
    for name, shape in parameters.items():
        linear = _linear(name, shape, known)
        if linear is not None:
            yield linear


def _floats(weights: int, size: int = FLOAT_BYTES, read: bool = True) -> RecipeSizes:
    count = size * weights
    return RecipeSizes(file=count, loaded=count, active=count if read else 0, kept=weights)


def _is_quantized(linear: LinearGroup | None, quantization: Quantization) -> bool:
    return linear is not None and not quantization.keeps(linear.paths[0])


def _sizes_of(linear: LinearGroup, quantization: Quantization | None, experts_used: int) -> RecipeSizes:
    """Sizes of all layers of one shape. A token reads only some of the experts."""
    count, weights = len(linear.paths), linear.rows * linear.columns
    used = min(experts_used, count) if count > 1 else 1
    taken = 0 if quantization is None else quantization.taken(linear.paths)
    total = replace(_floats((count - taken) * weights), widest=linear.rows * used)
    if quantization is not None and taken:
        one = quantization.bytes_of(linear.rows, linear.columns)
        total += RecipeSizes(
            file=taken * one.file,
            loaded=taken * one.held,
            active=taken * one.held,
            quantized=taken * weights,
            channels=taken * linear.rows,
            static=taken * one.static,
            largest=weights,
        )
    return replace(total, active=total.active * used // count)


def kv_cell_bytes(recipe: Recipe | None, kv_heads: int, key_length: int, value_length: int) -> tuple[int, int]:
    """Bytes per token in the cache of one attention layer: of keys and values, and of their scales.

    An int8 cache uses the static scales of K and V if the recipe quantizes them after RoPE; otherwise K and V each have
    one float32 scale per token and head (see `int8.kv_cache`).
    """
    values = kv_heads * (key_length + value_length)
    if recipe is None or not recipe.int8_kv_cache:
        return FLOAT_BYTES * values, 0
    at_rope = recipe.insertion is Insertion.ROPE
    by_token = [kind for kind in (recipe.query_key, recipe.value) if not at_rope or kind is Scales.FLOAT]
    return values, kv_heads * _SCALE * len(by_token)


def _stored(rows: int, columns: int, recipe: Recipe) -> int:
    """Bytes of one quantized layer in the file (see `int8.compressed_tensors`)."""
    scales = _SCALE * rows
    if recipe.activations is Activations.FLOAT:  # four weights per int32, and the shape as two int64
        return 4 * rows * -(-columns // 4) + 16 + scales
    static = recipe.activations is Activations.STATIC
    return rows * columns + scales + static * (_SCALE + (not recipe.symmetric))


def _linear(name: str, shape: tuple[int, ...], known: QuantizableArchitecture) -> LinearGroup | None:
    """The linear layers whose weights a parameter holds; None for parameters that are not such weights."""
    path, _, kind = name.rpartition(".")
    if not name.startswith("model.layers.") or kind != "weight" or path.split(".", 3)[3] in known.routers:
        return None
    if "*" in path and len(shape) == 3:
        return LinearGroup(tuple(path.replace("*", str(i)) for i in range(shape[0])), *shape[1:])
    return LinearGroup((path,), *shape) if len(shape) == 2 else None


def _attention_scales(
    parameters: Mapping[str, tuple[int, ...]],
    recipe: Recipe,
    attention: AttentionModules,
    head_width: int | None,
) -> Iterator[int]:
    """Bytes of the scales and zero points of Q, K and V in each attention layer."""
    for name, shape in parameters.items():
        where, found, _ = name.partition(f".{attention.path}.{attention.query_norm or attention.query}.weight")
        if not found:
            continue
        if attention.query_norm is not None:
            (head_width,) = shape
        assert head_width is not None
        width = head_width
        heads, kv_heads = (
            parameters[f"{where}.{attention.path}.{module}.weight"][axis] // width
            for module, axis in ((attention.output, 1), (attention.key, 0))
        )
        for scales, count in ((recipe.query_key, heads), (recipe.query_key, kv_heads), (recipe.value, kv_heads)):
            number = {Scales.FLOAT: 0, Scales.TENSOR: 1, Scales.HEAD: count, Scales.CHANNEL: count * width}[scales]
            yield number * (_SCALE + _ZERO_POINT)
