"""Importance matrices: how much each column of each weight matters, from the squares of what is multiplied with it.

Format: the GGUF that llama.cpp's llama-imatrix writes (general.type "imatrix"; for each weight the sums of squares
`{name}.in_sum2` [matrices, columns] and how many tokens they are of, `{name}.counts` [matrices, 1]). The weights made
from it are those of llama-quantize.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from converters.checkpoint import read_into
from converters.errors import InputError
from converters.export import Importance
from converters.llamacpp.bindings import TYPES
from converters.llamacpp.container import (
    Header,
    TensorInfo,
    encode_header,
    lay_out,
    padded,
    read_header,
    string,
    strings,
    text,
    uint32,
)

Float32 = npt.NDArray[np.float32]

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Statistics:
    """Of one weight: `sums` of squares, float32 [matrices, columns], over `counts` tokens, float32 [matrices]."""

    sums: Float32
    counts: Float32

    @property
    def weights(self) -> Float32:
        """The mean square of each column; 1 for a matrix that no token went through, as llama-quantize takes it."""
        seen = self.counts > 0
        divided = self.sums / np.where(seen, self.counts, 1)[:, None]
        return np.where(seen[:, None], divided, 1).astype(np.float32)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Statistics by weight, and of what text: `chunks` of `chunk_size` tokens from `datasets`."""

    statistics: Mapping[str, Statistics]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int

    @property
    def coverage(self) -> tuple[int, int]:
        """How many matrices (experts count singly) some token went through, and how many there are."""
        counts = [entry.counts for entry in self.statistics.values()]
        return sum(int((each > 0).sum()) for each in counts), sum(len(each) for each in counts)

    def importance(self, file: str) -> Importance:
        """For `export`, with the metadata that llama-quantize writes. `file` is the name by which it is remembered."""
        fields = {
            "quantize.imatrix.file": string(file),
            "quantize.imatrix.dataset": string(self.datasets[0] if self.datasets else ""),
            "quantize.imatrix.entries_count": uint32(len(self.statistics)),
            "quantize.imatrix.chunks_count": uint32(self.chunks),
        }
        return Importance({name: entry.weights for name, entry in self.statistics.items()}, fields)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file. Raises InputError for one that is none, is damaged, or has sums without their counts."""
        header = read_header(path)
        if text(header.metadata, "general.type") != "imatrix":
            raise InputError(f"{path}: is no importance matrix in GGUF; llama-imatrix converts older .dat files")
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
                if len(sums) != len(counts):
                    raise InputError(f"{path}: {name} is of {len(sums)} matrices, its counts of {len(counts)}")
                statistics[weight] = Statistics(sums, counts)
        if not statistics:
            raise InputError(f"{path}: holds no {_SUMS}; it was made of no text")
        datasets = header.metadata.get("imatrix.datasets")
        chunks, size = (
            header.metadata[key].value if key in header.metadata else 0
            for key in ("imatrix.chunk_count", "imatrix.chunk_size")
        )
        return cls(statistics, tuple(datasets.value) if datasets is not None else (), chunks, size)

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
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".partial") as file:
                file.write(encode_header(metadata, tensors))
                for array in arrays.values():
                    file.write(array.tobytes() + bytes(padded(array.nbytes) - array.nbytes))
                file.flush()
                os.fsync(file.fileno())
                os.link(file.name, f"{file.name}.done")
                os.replace(f"{file.name}.done", path)
                path.chmod(0o644)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _values(header: Header, tensor: TensorInfo, descriptor: int) -> Float32:
    """A tensor's values as float32 [rows, columns]. Raises InputError for another type, NaN, infinity or below 0."""
    if tensor.type.name != "F32" or len(tensor.shape) > 2:
        raise InputError(f"{header.path}: {tensor.name} is {tensor.type.name} {tensor.shape}; expected F32 of two axes")
    buffer = np.empty(tensor.nbytes, np.uint8)
    read_into(descriptor, buffer, header.data_offset + tensor.offset, header.path)
    values = buffer.view(np.float32).reshape(-1, tensor.shape[-1])
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{header.path}: {tensor.name} has values that are no sums of squares or counts")
    return values
