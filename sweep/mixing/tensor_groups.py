"""Groups of tensors that get one type together: the same tensor in a third of the layers, or each tensor by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converters.llamacpp.container import TensorInfo
from converters.plan import layer_counts, planned_tensors
from converters.recipes import recipe
from converters.source import Source

PURE = "Q3_K_M"
"""The quant on which rules for all tensors are written. Its own choices do not matter then."""
THIRDS = ("first", "middle", "last")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of a model that get one type. `pattern` is a regular expression that finds them and no others."""

    name: str
    pattern: str
    tensors: tuple[str, ...]


def tensor_groups(source: Source, each: bool = False) -> tuple[TensorGroup, ...]:
    """The groups of all tensors that can be quantized: the tensors of one name in a third of the layers, and each
    tensor outside the layers. With `each` every tensor is a group.

    Layers for multi-token prediction are left out: no text runs through them.
    """
    layers, _ = layer_counts(source)
    found: dict[tuple[str, str], list[str]] = {}
    for name in _quantizable(source):
        match = _LAYER.fullmatch(name)
        if match is None:
            found[name.removesuffix(".weight"), ""] = [name]
        elif int(match[1]) < layers:
            place = f"layer {match[1]}" if each else f"{THIRDS[3 * int(match[1]) // layers]} third"
            found.setdefault((match[2], place), []).append(name)
    return tuple(
        TensorGroup(", ".join(filter(None, key)), pattern_of(names), tuple(names)) for key, names in found.items()
    )


def pattern_of(names: Sequence[str]) -> str:
    """A regular expression for the names of one tensor in some layers, or for one name."""
    first = _LAYER.fullmatch(names[0])
    if first is None or len(names) == 1:
        return f"^{re.escape(names[0])}$"
    numbers = "|".join(match[1] for name in names if (match := _LAYER.fullmatch(name)) is not None)
    return rf"^blk\.({numbers})\.{re.escape(first[2])}\.weight$"


def uniform(type_: str) -> str:
    """The name of the quant in which all tensors that can be quantized have this type."""
    return f"{PURE};weight$={type_}"


def alone(group: TensorGroup, type_: str, others: str) -> str:
    """The name of the quant in which the tensors of a group have one type, and all other tensors the type `others`."""
    return f"{PURE};{group.pattern}={type_};weight$={others}"


def typed_tensors(source: Source, type_: str) -> Mapping[str, TensorInfo]:
    """The tensors of a file in which all have this type, where their shape allows it; otherwise what llama.cpp takes
    instead."""
    return {tensor.name: tensor for tensor in planned_tensors(source, recipe(uniform(type_)), imatrix=True)}


def _quantizable(source: Source) -> list[str]:
    """The names of the tensors whose type a rule can change."""
    small, large = typed_tensors(source, "Q8_0"), typed_tensors(source, "BF16")
    return [name for name, tensor in small.items() if tensor.type != large[name].type]
