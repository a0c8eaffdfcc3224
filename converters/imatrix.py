"""Importance matrices: how strongly each column of a weight matrix is used, from the squares of its inputs.

Format: the GGUF file that llama.cpp's llama-imatrix writes (general.type "imatrix"). For each weight it has the sums of
squares `{name}.in_sum2` [matrices, columns] and the numbers of tokens in them `{name}.counts` [matrices, 1]. The
weighting made from them is that of llama-quantize.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from converters.architectures.family import is_always_f32
from converters.atomic import AtomicFile
from converters.checkpoint import read_into
from converters.errors import InputError
from converters.llamacpp.bindings import TYPES
from converters.llamacpp.container import (
    Field,
    GGUFHeader,
    TensorInfo,
    ValueType,
    data_bytes,
    encode_header,
    lay_out,
    padded,
    string,
    strings,
    tensor_order,
    text,
    uint32,
)
from converters.llamacpp.imatrix_collection import CollectedStatistics
from converters.llamacpp.reader import read_header
from converters.plan import Importance, check_importance, layer_counts
from converters.source import Source

Float32 = npt.NDArray[np.float32]

MAX_BYTES = 4 << 30  # Qwen3.5-397B's has about one
_SUMS, _COUNTS = ".in_sum2", ".counts"
_ORIGIN = "bitsweep.imatrix.origin"


@dataclass(frozen=True)
class ImportanceStatistics:
    """One weight's `sums` of squares, float32 [matrices, columns], over `counts` tokens, float32 [matrices]."""

    sums: Float32
    counts: Float32

    @property
    def coverage(self) -> tuple[int, int]:
        """The number of matrices that at least one token reached, and of all. Each expert counts as one matrix."""
        return int((self.counts > 0).sum()), len(self.counts)

    @property
    def informative(self) -> npt.NDArray[np.bool_]:
        """Of each matrix, whether tokens reached it and not all its sums are zero."""
        return (self.counts > 0) & self.sums.any(axis=1)

    @property
    def zero(self) -> npt.NDArray[np.bool_]:
        """Of each matrix, whether tokens reached it, but all its sums are zero."""
        return (self.counts > 0) & ~self.informative

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Of each matrix, whether tokens reached it, but all its columns have the same sum, which is not zero."""
        same = (self.sums == self.sums[:, :1]).all(axis=1) & (self.sums.shape[1] > 1)
        return self.informative & same

    @property
    def weights(self) -> Float32:
        """The mean square of each column, float32 [matrices, columns].

        1 for a matrix that no token reached, as in llama-quantize, and for a matrix whose sums are all zero: in
        llama-quantize such weights make the scales of most types meaningless.
        """
        known = self.informative
        divided = self.sums / np.where(known, self.counts, 1)[:, None]
        return np.where(known[:, None], divided, 1).astype(np.float32)


@dataclass(frozen=True)
class ImportanceMatrix:
    """The statistics of all weights, collected on `chunks` chunks of `chunk_size` tokens from `datasets`.

    `origin` is a hash of the model and the text if this program collected the statistics.
    """

    statistics: Mapping[str, ImportanceStatistics]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int
    origin: str | None = None

    @property
    def coverage(self) -> tuple[int, int]:
        """The number of matrices that at least one token reached, and of all. Each expert counts as one matrix."""
        each = [entry.coverage for entry in self.statistics.values()]
        return sum(seen for seen, _ in each), sum(total for _, total in each)

    @property
    def partly_covered(self) -> dict[str, tuple[int, int]]:
        """The coverage of every weight in which some matrices were reached by no token."""
        each = {name: entry.coverage for name, entry in self.statistics.items()}
        return {name: (seen, total) for name, (seen, total) in each.items() if seen < total}

    @property
    def coverage_notes(self) -> tuple[str, ...]:
        """Lines for users on how much of the model the text covers, and on what is doubtful in the statistics.

        Columns of an expert that no token reached all have the same weight.
        """
        found, every = self.coverage
        notes = [f"{self.chunks} chunks of {self.chunk_size} tokens, {found} of {every} matrices covered"]
        partly = [f"{tensor} {seen} of {count}" for tensor, (seen, count) in self.partly_covered.items()]
        if partly:
            notes.append(f"the text did not reach all experts ({_few(partly)}); a longer text may reach more")
        zero = [name for name, entry in self.statistics.items() if entry.zero.any()]
        if zero:
            notes.append(
                f"all inputs were zero in {_few(zero)}; these matrices are quantized as without an importance matrix"
            )
        constant = [name for name, entry in self.statistics.items() if entry.constant.any()]
        if constant:
            notes.append(f"all columns have the same importance in {_few(constant)}: check how the matrix was made")
        tokens, columns = self.chunks * self.chunk_size, max(e.sums.shape[1] for e in self.statistics.values())
        if tokens < columns:
            notes.append(f"{tokens} tokens are fewer than the {columns} columns of a weight; use a longer text")
        return tuple(notes)

    def model_notes(self, source: Source, file: str) -> tuple[str, ...]:
        """Lines for users on where the matrix does not fit a model. `file` is the name of the matrix's file.

        Raises InputError if it was surely made for another model: a weight has another shape, or none is in it.
        """
        check_importance(source, self.importance(file))
        tensors = {tensor.name for tensor in source.tensors}
        missing = [name for name in _with_inputs(source) if name not in self.statistics]
        surplus = [name for name in self.statistics if name not in tensors and name != "output.weight"]
        notes = []
        if missing:
            notes.append(f"has no entry for {_few(missing)}, which are quantized as without an importance matrix")
        if surplus:
            notes.append(f"has entries that the model has not ({_few(surplus)}): check that it was made for this model")
        return tuple(notes)

    def importance(self, file: str) -> Importance:
        """The importance for `export`, with the metadata of llama-quantize. `file` is the name recorded there."""
        fields = _fields(file, self.datasets[0] if self.datasets else "", len(self.statistics), self.chunks)
        return Importance({name: entry.weights for name, entry in self.statistics.items()}, fields)

    @classmethod
    def from_collected(cls, collected: CollectedStatistics, dataset: str, origin: str | None = None) -> Self:
        """Make the matrix from statistics collected while a model read the text named `dataset`."""
        statistics = {name: ImportanceStatistics(sums, collected.counts[name]) for name, sums in collected.sums.items()}
        return cls(statistics, (dataset,), collected.chunks, collected.chunk_size, origin)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises InputError if it is not an importance matrix, is damaged, or lacks sums or counts."""
        try:
            header = read_header(path)
        except InputError as error:
            if path.suffix == ".dat":
                raise InputError(f"{error}; to convert the older .dat format, use llama-imatrix --in-file") from error
            raise
        if text(header.metadata, "general.type") != "imatrix":
            raise InputError(f"{path}: is not an importance matrix: its general.type is not 'imatrix'")
        orphans = {tensor.name.removesuffix(_COUNTS) for tensor in header.tensors if tensor.name.endswith(_COUNTS)}
        orphans -= {tensor.name.removesuffix(_SUMS) for tensor in header.tensors}
        if orphans:
            raise InputError(f"{path}: {min(orphans)}{_COUNTS} has no matching {_SUMS}")
        if header.tensor_bytes > MAX_BYTES:
            raise InputError(f"{path}: has {header.tensor_bytes} bytes of statistics; {MAX_BYTES} is the limit")
        infos = {tensor.name: tensor for tensor in header.tensors}
        statistics = {}
        with path.open("rb") as file:
            for name in infos:
                if not name.endswith(_SUMS):
                    continue
                weight = name.removesuffix(_SUMS)
                if weight + _COUNTS not in infos:
                    raise InputError(f"{path}: {name} has no matching {_COUNTS}")
                sums = _values(header, infos[name], file.fileno())
                counts = _values(header, infos[weight + _COUNTS], file.fileno()).reshape(-1)
                counts = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)  # llama.cpp rounds them by lround
                if len(sums) != len(counts):
                    raise InputError(f"{path}: {name} has {len(sums)} matrices, but its counts are for {len(counts)}")
                statistics[weight] = ImportanceStatistics(sums, counts)
        if not statistics:
            raise InputError(f"{path}: has no {_SUMS}, so it was made without a text; compute it again")
        if not any(entry.informative.any() for entry in statistics.values()):
            raise InputError(
                f"{path}: all sums or all counts are zero, so no column has an importance; compute it again"
            )
        chunks, size = _number(header, "imatrix.chunk_count"), _number(header, "imatrix.chunk_size")
        origin = text(header.metadata, _ORIGIN) or None
        return cls(statistics, _texts(header, "imatrix.datasets"), chunks, size, origin)

    def write(self, path: Path) -> None:
        """Write the file atomically. Datasets are stored by file name only, so that files from two machines agree."""
        arrays = {}
        for name in sorted(self.statistics):
            entry = self.statistics[name]
            arrays[name + _SUMS] = np.ascontiguousarray(entry.sums, np.float32)
            arrays[name + _COUNTS] = np.ascontiguousarray(entry.counts[:, None], np.float32)
        tensors = lay_out((name, array.shape, TYPES["F32"]) for name, array in arrays.items())
        metadata = {
            "general.type": string("imatrix"),
            "imatrix.datasets": strings([os.path.basename(name) for name in self.datasets]),
            "imatrix.chunk_count": uint32(self.chunks),
            "imatrix.chunk_size": uint32(self.chunk_size),
        }
        if self.origin is not None:
            metadata[_ORIGIN] = string(self.origin)
        header = encode_header(metadata, tensors)
        with AtomicFile(path, len(header) + data_bytes(tensors)) as file:
            file.write(header)
            for tensor in tensors:
                file.write(arrays[tensor.name].data.cast("B"))
                file.write(bytes(padded(tensor.nbytes) - tensor.nbytes))


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _with_inputs(source: Source) -> list[str]:
    """The names of the matrices of layers that run while a matrix is collected, except those that always stay F32."""
    running, _ = layer_counts(source)
    return [
        tensor.name
        for tensor in source.tensors
        if 0 <= tensor_order(tensor.name)[0] < running and not is_always_f32(tensor.name, tensor.shape)
    ]


def uniform_importance(source: Source, file: str | None = None, dataset: str = "") -> Importance:
    """An importance in which all columns count the same: for plans made before there is a matrix. Takes no memory.

    With the names of the `file` to be made and of its `dataset`, headers of planned files have the right length too.
    """
    shapes = {t.name: (math.prod(t.shape[:-2]), t.shape[-1]) for t in source.tensors if len(t.shape) > 1}
    fields = {} if file is None else _fields(file, dataset, len(shapes), 0)
    return Importance({name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}, fields)


def _fields(file: str, dataset: str, entries: int, chunks: int) -> dict[str, Field]:
    return {
        "quantize.imatrix.file": string(file),
        "quantize.imatrix.dataset": string(dataset),
        "quantize.imatrix.entries_count": uint32(entries),
        "quantize.imatrix.chunks_count": uint32(chunks),
    }


def _number(header: GGUFHeader, key: str) -> int:
    """A UINT32 of the metadata. Raises InputError if it is missing; llama-quantize rejects such a file too."""
    found = header.metadata.get(key)
    if found is None or found.type is not ValueType.UINT32:
        raise InputError(f"{header.path}: {key} is missing or not a UINT32; make the file with llama-imatrix")
    return int(found.value)


def _texts(header: GGUFHeader, key: str) -> tuple[str, ...]:
    found = header.metadata.get(key)
    if found is None or found.item_type is not ValueType.STRING:
        raise InputError(f"{header.path}: {key} is missing or not a list of strings; make the file with llama-imatrix")
    return tuple(found.value)


def _values(header: GGUFHeader, tensor: TensorInfo, descriptor: int) -> Float32:
    """A tensor's values as float32 [rows, columns]. Raises InputError for another type, NaN, infinity or values < 0."""
    if tensor.type.name != "F32" or len(tensor.shape) > 2:
        raise InputError(
            f"{header.path}: {tensor.name} is {tensor.type.name} {tensor.shape}; expected F32 with at most two axes"
        )
    buffer = np.empty(tensor.nbytes, np.uint8)
    read_into(descriptor, buffer, header.data_offset + tensor.offset, header.path)
    values = buffer.view(np.float32).reshape(-1, tensor.shape[-1])
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{header.path}: {tensor.name} has values that are NaN, infinite or negative")
    return values
