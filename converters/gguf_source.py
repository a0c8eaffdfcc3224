"""A GGUF file as a source of weights, and the hash that tells one from another."""

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.checkpoint import WEIGHT_DTYPES, read_into, sample_blocks
from converters.errors import InputError
from converters.llamacpp.bindings import TensorType
from converters.llamacpp.container import Field, lay_out, read_header, tensor_order, text
from converters.llamacpp.quantize import UNQUANTIZED

# What export sets by itself, or what belongs to one file's way of being stored and not to the model.
_FILE_KEYS = (
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
)


class GGUFSource:
    """A GGUF file with F32, F16 and BF16 tensors only."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self._header = read_header(path)
        self.path = path
        self.name = name or text(self._header.metadata, "general.name") or path.stem
        quantized = next((tensor for tensor in self._header.tensors if tensor.type.name not in UNQUANTIZED), None)
        if quantized is not None:
            raise InputError(
                f"{path}: is quantized already ({quantized.name} is {quantized.type.name}); quantizing twice loses more"
                " than the smaller type alone: give the checkpoint, or its F32, F16 or BF16 file"
            )
        if not self._header.architecture or not self._header.tensors:
            raise InputError(f"{path}: has no general.architecture or no tensors; it is no model")
        if "split.count" in self._header.metadata and self._header.metadata["split.count"].value != 1:
            raise InputError(f"{path}: is one part of a split file; merge the parts with llama-gguf-split first")
        self._infos = {tensor.name: tensor for tensor in self._header.tensors}
        self.tensors = lay_out(
            (name, self._infos[name].shape, self._infos[name].type) for name in sorted(self._infos, key=tensor_order)
        )
        self.metadata: Mapping[str, Field] = {
            key: field for key, field in self._header.metadata.items() if key not in _FILE_KEYS
        }

    @property
    def fingerprint(self) -> str:
        """See `gguf_fingerprint`."""
        return gguf_fingerprint(self.path)

    def stored_name(self, name: str) -> str:
        """See `Source.stored_name`."""
        return name

    @cached_property
    def _descriptor(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def __del__(self) -> None:
        if "_descriptor" in self.__dict__:
            os.close(self._descriptor)

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """See `Source.read_rows`."""
        info = self._infos[name]
        row_bytes = info.type.row_bytes(info.shape[-1])
        buffer = np.empty((stop - start) * row_bytes, np.uint8)
        read_into(self._descriptor, buffer, self._header.data_offset + info.offset + start * row_bytes, self.path)
        return buffer.view(WEIGHT_DTYPES[info.type.name]).reshape(stop - start, info.shape[-1]), info.type


def gguf_fingerprint(path: Path) -> str:
    """SHA-256 over a GGUF's whole header and, of each tensor's data, the blocks that `Checkpoint.fingerprint` takes."""
    header = read_header(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(header.data_offset))
        for tensor in header.tensors:
            for data in sample_blocks(file.fileno(), header.data_offset + tensor.offset, tensor.nbytes, path):
                digest.update(data)
    return digest.hexdigest()
