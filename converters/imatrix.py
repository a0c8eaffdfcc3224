"""Importance matrices: how much each column of each weight matters, from the squares of what is multiplied with it.

Format: the GGUF that llama.cpp's llama-imatrix writes (general.type "imatrix"; for each weight the sums of squares
`{name}.in_sum2` [matrices, columns] and how many tokens they are of, `{name}.counts` [matrices, 1]). The weights made
from it are those of llama-quantize.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from converters.atomic import WholeFile
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
    text,
    uint32,
)
from converters.llamacpp.imatrix import Collected
from converters.llamacpp.reader import read_header
from converters.plan import Importance
from converters.source import Source

Float32 = npt.NDArray[np.float32]

MAX_BYTES = 4 << 30  # Qwen3.5-397B's has about one
_SUMS, _COUNTS = ".in_sum2", ".counts"
_ORIGIN = "bitsweep.imatrix.origin"


@dataclass(frozen=True)
class ImportanceStatistics:
    """Of one weight: `sums` of squares, float32 [matrices, columns], over `counts` tokens, float32 [matrices]."""

    sums: Float32
    counts: Float32

    @property
    def coverage(self) -> tuple[int, int]:
        """How many matrices (experts count singly) some token went through, and how many there are."""
        return int((self.counts > 0).sum()), len(self.counts)

    @property
    def weights(self) -> Float32:
        """The mean square of each column; 1 for a matrix that no token went through, as llama-quantize takes it."""
        seen = self.counts > 0
        divided = self.sums / np.where(seen, self.counts, 1)[:, None]
        return np.where(seen[:, None], divided, 1).astype(np.float32)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Statistics by weight, and of what text: `chunks` of `chunk_size` tokens from `datasets`.

    `origin` is a hash of the model and the text, where this program collected it.
    """

    statistics: Mapping[str, ImportanceStatistics]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int
    origin: str | None = None

    @property
    def coverage(self) -> tuple[int, int]:
        """How many matrices (experts count singly) some token went through, and how many there are."""
        each = [entry.coverage for entry in self.statistics.values()]
        return sum(seen for seen, _ in each), sum(total for _, total in each)

    @property
    def partly_covered(self) -> dict[str, tuple[int, int]]:
        """The coverage of every weight that has matrices no token went through."""
        each = {name: entry.coverage for name, entry in self.statistics.items()}
        return {name: (seen, total) for name, (seen, total) in each.items() if seen < total}

    @property
    def told(self) -> tuple[str, ...]:
        """For people: how much of the model the text went through. Experts it never chose weigh all columns alike."""
        found, every = self.coverage
        first = f"{self.chunks} chunks of {self.chunk_size} tokens, {found} of {every} matrices covered"
        partly = [f"{tensor} {seen} of {count}" for tensor, (seen, count) in self.partly_covered.items()]
        if not partly:
            return (first,)
        more = f" and {len(partly) - 3} more" if len(partly) > 3 else ""
        return first, f"not all experts saw a token: {', '.join(partly[:3])}{more}; a longer text covers more"

    def importance(self, file: str) -> Importance:
        """For `export`, with the metadata that llama-quantize writes. `file` is the name by which it is remembered."""
        fields = _fields(file, self.datasets[0] if self.datasets else "", len(self.statistics), self.chunks)
        return Importance({name: entry.weights for name, entry in self.statistics.items()}, fields)

    @classmethod
    def of(cls, collected: Collected, dataset: str, origin: str | None = None) -> Self:
        """Of what was collected while a model read the text called `dataset`."""
        statistics = {name: ImportanceStatistics(sums, collected.counts[name]) for name, sums in collected.sums.items()}
        return cls(statistics, (dataset,), collected.chunks, collected.chunk_size, origin)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file. Raises InputError for one that is none, is damaged, or has sums without their counts."""
        try:
            header = read_header(path)
        except InputError as error:
            if path.suffix == ".dat":
                raise InputError(f"{error}; llama-imatrix --in-file converts the older format") from error
            raise
        if text(header.metadata, "general.type") != "imatrix":
            raise InputError(f"{path}: is no importance matrix: its general.type is not 'imatrix'")
        orphans = {tensor.name.removesuffix(_COUNTS) for tensor in header.tensors if tensor.name.endswith(_COUNTS)}
        orphans -= {tensor.name.removesuffix(_SUMS) for tensor in header.tensors}
        if orphans:
            raise InputError(f"{path}: {min(orphans)}{_COUNTS} has no {_SUMS} beside it")
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
                    raise InputError(f"{path}: {name} has no {_COUNTS} beside it")
                sums = _values(header, infos[name], file.fileno())
                counts = _values(header, infos[weight + _COUNTS], file.fileno()).reshape(-1)
                counts = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)  # llama.cpp rounds them: lround
                if len(sums) != len(counts):
                    raise InputError(f"{path}: {name} is of {len(sums)} matrices, its counts of {len(counts)}")
                statistics[weight] = ImportanceStatistics(sums, counts)
        if not statistics:
            raise InputError(f"{path}: holds no {_SUMS}; it was made of no text")
        chunks, size = _number(header, "imatrix.chunk_count"), _number(header, "imatrix.chunk_size")
        origin = text(header.metadata, _ORIGIN) or None
        return cls(statistics, _texts(header, "imatrix.datasets"), chunks, size, origin)

    def write(self, path: Path) -> None:
        """To a file, which appears whole or not at all. Datasets keep their names only, so that machines agree."""
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
        with WholeFile(path, len(header) + data_bytes(tensors)) as file:
            file.write(header)
            for tensor in tensors:
                file.write(arrays[tensor.name].data.cast("B"))
                file.write(bytes(padded(tensor.nbytes) - tensor.nbytes))


def even_importance(source: Source, file: str | None = None, dataset: str = "") -> Importance:
    """All columns of all matrices alike, in no memory: for plans of files before there is a matrix.

    With the names of a `file` yet to be made and its `dataset` their headers have the right length too.
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
    """A whole number of the metadata. llama-quantize refuses a file without it, or of another type, as well."""
    found = header.metadata.get(key)
    if found is None or found.type is not ValueType.UINT32:
        raise InputError(f"{header.path}: {key} is missing or no UINT32; llama-imatrix writes it")
    return int(found.value)


def _texts(header: GGUFHeader, key: str) -> tuple[str, ...]:
    found = header.metadata.get(key)
    if found is None or found.item_type is not ValueType.STRING:
        raise InputError(f"{header.path}: {key} is missing or no list of texts; llama-imatrix writes it")
    return tuple(found.value)


def _values(header: GGUFHeader, tensor: TensorInfo, descriptor: int) -> Float32:
    """A tensor's values as float32 [rows, columns]. Raises InputError for another type, NaN, infinity or below 0."""
    if tensor.type.name != "F32" or len(tensor.shape) > 2:
        raise InputError(f"{header.path}: {tensor.name} is {tensor.type.name} {tensor.shape}; expected F32 of two axes")
    buffer = np.empty(tensor.nbytes, np.uint8)
    read_into(descriptor, buffer, header.data_offset + tensor.offset, header.path)
    values = buffer.view(np.float32).reshape(-1, tensor.shape[-1])
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{header.path}: {tensor.name} has values that are no sums of squares or counts")
    return values
