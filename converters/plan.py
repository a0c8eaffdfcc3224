"""The plan of a GGUF file before it is written: its metadata, every tensor's type and place, and so its exact size.

llama.cpp itself decides the types (llamacpp/tensor_types.py). A file above a given size is split as llama-gguf-split
splits it: whole tensors per part, all metadata in the first part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.errors import InputError
from converters.llamacpp.container import (
    Field,
    TensorInfo,
    ValueType,
    data_bytes,
    encode_header,
    lay_out,
    number,
    padded,
    string,
    tensor_order,
    text,
    uint32,
)
from converters.llamacpp.tensor_types import plan_types
from converters.mixes import IMATRIX_TYPES
from converters.projector_source import ProjectorSource
from converters.recipes import QuantRecipe, recipes, reject_missing_imatrix
from converters.source import Source

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION

MTP_TYPE = "Q4_K"
"""Type of MTP layers in files with such types: MTP layers do not run while an importance matrix is collected."""


@dataclass(frozen=True)
class Importance:
    """The importance of columns (`weights`: tensor -> float32 [matrices, columns]) and `fields` for file metadata."""

    weights: Mapping[str, npt.NDArray[np.float32]]
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class TypeCount:
    """The number of tensors, weights and bytes of one type in a file."""

    tensors: int
    weights: int
    bytes: int


@dataclass(frozen=True)
class FilePart:
    """One file: all bytes before its data section, and its tensors with their offsets in that section."""

    header: bytes
    tensors: tuple[TensorInfo, ...]

    @property
    def file_bytes(self) -> int:
        """Length of the file in bytes."""
        return len(self.header) + data_bytes(self.tensors)

    def is_start_of(self, path: Path) -> bool:
        """Whether the file at `path` has this length and this header, as the same model's file of the same quant has.
        Its weights are not compared."""
        if not path.is_file() or path.stat().st_size != self.file_bytes:
            return False
        with path.open("rb") as file:
            return file.read(len(self.header)) == self.header


@dataclass(frozen=True)
class FilePlan:
    """A GGUF file before it is written: its metadata, and every tensor with its type and its place in an unsplit file.

    If the tensors with their padding take more than `max_part_bytes` bytes, the file is split into parts.
    """

    recipe: QuantRecipe
    metadata: Mapping[str, Field]
    tensors: tuple[TensorInfo, ...]
    max_part_bytes: int | None = None

    @cached_property
    def parts(self) -> tuple[FilePart, ...]:
        """The files to write: one unless there is a limit. A tensor larger than the limit is a part of its own."""
        groups = _divided(self.tensors, self.max_part_bytes)
        if len(groups) == 1:
            return (FilePart(encode_header(self.metadata, self.tensors), self.tensors),)
        parts = []
        for index, group in enumerate(groups):
            own = {
                "split.no": number(ValueType.UINT16, index),
                "split.tensors.count": number(ValueType.INT32, len(self.tensors)),
                "split.count": number(ValueType.UINT16, len(groups)),
            }
            tensors = lay_out((tensor.name, tensor.shape, tensor.type) for tensor in group)
            parts.append(FilePart(encode_header({**self.metadata, **own} if index == 0 else own, tensors), tensors))
        return tuple(parts)

    def paths(self, path: Path) -> tuple[Path, ...]:
        """The paths of the parts if the unsplit file is called `path`."""
        return part_paths(path, len(self.parts))

    @property
    def quant(self) -> str:
        return self.recipe.name

    @property
    def file_bytes(self) -> int:
        """Length of the file, or of all its parts together, in bytes."""
        return sum(part.file_bytes for part in self.parts)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors without padding."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data per weight, as llama.cpp counts them: without header and padding."""
        return 8 * self.tensor_bytes / self.weights

    @property
    def mtp_bytes(self) -> int:
        """Bytes of the tensors of multi-token prediction layers, which come after all other layers."""
        prefix = text(self.metadata, "general.architecture")
        mtp = self.metadata.get(f"{prefix}.nextn_predict_layers")
        if mtp is None:
            return 0
        first = self.metadata[f"{prefix}.block_count"].value - mtp.value
        return sum(tensor.nbytes for tensor in self.tensors if tensor_order(tensor.name)[0] >= first)

    @property
    def census(self) -> dict[str, TypeCount]:
        """The number of tensors, weights and bytes per type, the type with the most bytes first."""
        groups: dict[str, list[TensorInfo]] = {}
        for tensor in self.tensors:
            groups.setdefault(tensor.type.name, []).append(tensor)
        counts = {
            name: TypeCount(len(group), sum(t.elements for t in group), sum(t.nbytes for t in group))
            for name, group in groups.items()
        }
        return dict(sorted(counts.items(), key=lambda item: -item[1].bytes))


def projector_name(model: str, quant: str) -> str:
    """The name of a projector file. llama.cpp recognizes such files by "mmproj" in their names."""
    return f"mmproj-{model}-{quant}.gguf"


def part_paths(path: Path, count: int) -> tuple[Path, ...]:
    """The paths of `count` parts of the .gguf file `path`, named as by llama-gguf-split; for one part `path` itself."""
    if count == 1:
        return (path,)
    return tuple(path.with_name(f"{path.stem}-{index:05d}-of-{count:05d}.gguf") for index in range(1, count + 1))


def _divided(tensors: Sequence[TensorInfo], limit: int | None) -> list[list[TensorInfo]]:
    groups: list[list[TensorInfo]] = [[]]
    size = 0
    for tensor in tensors:
        size += padded(tensor.nbytes)
        if limit is not None and size > limit and groups[-1]:
            groups.append([])
            size = padded(tensor.nbytes)
        groups[-1].append(tensor)
    return groups


def plan_export(
    source: Source, quants: Sequence[str], importance: Importance | None = None, max_part_bytes: int | None = None
) -> dict[str, FilePlan]:
    """Plan the file of each quant: its exact bytes, and the type of every tensor as llama.cpp decides it.

    Needs only names, shapes and types; no weight is read. Keys are the recipes' names in the given order. Raises
    InputError for an unknown quant, for a quant that needs an importance matrix if none is given, and for an importance
    matrix of another model.
    """
    chosen = recipes(quants)
    if importance is None:
        reject_missing_imatrix(chosen)
    else:
        check_importance(source, importance)
    plans = {}
    for recipe in chosen:
        tensors = planned_tensors(source, recipe, importance is not None)
        if importance is not None:
            _check_coverage(recipe, tensors, importance)
        metadata = _file_metadata(source.metadata, recipe, importance)
        plans[recipe.name] = FilePlan(recipe, metadata, tensors, max_part_bytes)
    return plans


def plan_file(source: Source, recipe: QuantRecipe, ghost: Path) -> FilePlan:
    """Plan one file with an existing `ghost` of the source, as if an importance matrix existed if one is needed.

    The few hundred bytes that the matrix adds to the header are left out. For `ghost` see llamacpp/ghost.py.
    """
    tensors = planned_tensors(source, recipe, recipe.needs_imatrix, ghost)
    return FilePlan(recipe, _file_metadata(source.metadata, recipe, None), tensors)


def planned_tensors(
    source: Source, recipe: QuantRecipe, imatrix: bool, ghost: Path | None = None
) -> tuple[TensorInfo, ...]:
    """The tensors of a file with their types and offsets. `imatrix` says whether there will be an importance matrix.

    `ghost` is the path of the source's ghost (llamacpp/ghost.py), if it exists already; otherwise one is made.
    """
    overrides = type_overrides(source, recipe)
    tensors = source.tensors_before(recipe.name) if isinstance(source, ProjectorSource) else source.tensors
    try:
        return plan_types(source.structure, tensors, recipe.ftype, overrides, imatrix, ghost)
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error


def type_overrides(source: Source, recipe: QuantRecipe) -> tuple[tuple[str, str], ...]:
    """(regular expression, type) pairs that override llama.cpp's choice: the rules of a mix, and MTP layers.

    MTP layers are included if the recipe needs an importance matrix, because no matrix covers them.
    """
    layers, blocks = layer_counts(source)
    names = {tensor.name for tensor in source.tensors}
    experts = any("_exps." in name for name in names)
    result: tuple[tuple[str, str], ...] = ()
    if recipe.mix is not None:
        result = recipe.mix.overrides(layers, "output.weight" not in names, experts)
        recipe.mix.require_matches(result, names)
    if recipe.needs_imatrix and layers < blocks:
        return (*((rf"^blk\.{block}\.", MTP_TYPE) for block in range(layers, blocks)), *result)
    return result


def layer_counts(source: Source) -> tuple[int, int]:
    """The number of layers that run when a model reads a text, and of all, with multi-token prediction (MTP) layers."""
    prefix = text(source.structure, "general.architecture")
    blocks, mtp = (source.structure.get(f"{prefix}.{key}") for key in ("block_count", "nextn_predict_layers"))
    count = 0 if blocks is None else int(blocks.value)
    return count - (0 if mtp is None else int(mtp.value)), count


def check_importance(source: Source, importance: Importance) -> None:
    """Raise InputError for an importance matrix of another model: no tensor of it, or a tensor of another shape."""
    file = text(importance.fields, "quantize.imatrix.file") or "the importance matrix"
    shapes = {tensor.name: tensor.shape for tensor in source.tensors}
    known = [name for name in importance.weights if name in shapes]
    if not known:
        raise InputError(f"{file}: names no tensor of {source.name}; give an importance matrix made for this model")
    for name in known:
        matrices, columns = math.prod(shapes[name][:-2]), shapes[name][-1]
        if importance.weights[name].shape != (matrices, columns):
            raise InputError(
                f"{file}: has {importance.weights[name].shape} values for {name}, which has {(matrices, columns)} in"
                f" {source.name}; give an importance matrix made for this model"
            )


def _check_coverage(recipe: QuantRecipe, tensors: Sequence[TensorInfo], importance: Importance) -> None:
    for tensor in tensors:
        needed = tensor.type.name in IMATRIX_TYPES or (recipe.name == "Q2_K_S" and tensor.type.name == "Q2_K")
        if needed and tensor.name not in (*importance.weights, "token_embd.weight", "output.weight"):
            raise InputError(
                f"{recipe.name} stores {tensor.name} as {tensor.type.name}, which needs importance, but"
                f" {text(importance.fields, 'quantize.imatrix.file') or 'the matrix'} has none for it: compute the"
                " matrix from more text"
            )


def _file_metadata(
    metadata: Mapping[str, Field], recipe: QuantRecipe, importance: Importance | None
) -> dict[str, Field]:
    # These come last, as in files of llama.cpp's quantizer, so that both files are equal byte by byte.
    own = {"general.quantization_version": uint32(QUANTIZATION_VERSION), "general.file_type": uint32(recipe.ftype)}
    if recipe.mix is not None:
        own["bitsweep.recipe"] = string(recipe.label)
    if importance is not None and not recipe.is_float:
        own |= importance.fields
    return {**{key: field for key, field in metadata.items() if key not in own}, **own}
