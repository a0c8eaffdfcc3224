"""What can be exported: a checkpoint or an unquantized GGUF file, seen as GGUF metadata and rows of weights."""

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.architectures import architecture
from converters.architectures.family import Weight
from converters.checkpoint import WEIGHT_DTYPES, Checkpoint, read_into, sample_blocks
from converters.errors import InputError
from converters.hub import fetch, is_hub_id
from converters.llamacpp.bindings import TYPES, TensorType
from converters.llamacpp.container import Field, TensorInfo, lay_out, read_header, string, tensor_order, text
from converters.llamacpp.quantize import UNQUANTIZED
from converters.tokenizer import read_tokenizer

# What export sets by itself, or what belongs to one file's way of being stored and not to the model.
_FILE_KEYS = (
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
)


class Source(Protocol):
    """A model to export. `tensors` are in llama.cpp's order with the types they have before quantization."""

    path: Path
    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def metadata(self) -> Mapping[str, Field]:
        """All metadata but what differs from file to file."""

    @property
    def fingerprint(self) -> str:
        """Hash of the model's content."""

    def stored_name(self, name: str) -> str:
        """What tensor `name` is called where it is stored: for messages."""

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """Rows of a tensor as [stop - start, row length], and their type: F32, F16, or BF16 as uint16.

        All axes but the last count as rows. Safe to call from several threads.
        """


def open_source(model: str | Path, name: str | None = None, pre_tokenizer: str | None = None) -> Source:
    """The model called `model`: a checkpoint directory, a .gguf file or, where there is no such path, a hub id.

    `name` is what the model is called in files made from it, `pre_tokenizer` llama.cpp's name of the pre-tokenizer
    where tokenizer.json does not tell it. Raises InputError for whatever cannot be exported, before any weight is read.
    """
    path = Path(model)
    if not path.exists() and is_hub_id(str(model)):
        path, name = fetch(str(model)), name or str(model).partition("@")[0].rpartition("/")[2]
    if path.is_file() and path.suffix == ".gguf":
        return GGUFSource(path, name)
    if path.is_file():
        raise InputError(f"{path}: is neither a .gguf file nor a checkpoint directory")
    return CheckpointSource(Checkpoint.open(path, name), pre_tokenizer)


class CheckpointSource:
    """A Hugging Face checkpoint of a supported architecture. Making one checks all names and shapes."""

    def __init__(self, checkpoint: Checkpoint, pre_tokenizer: str | None = None) -> None:
        self.checkpoint, self.path, self.name = checkpoint, checkpoint.path, checkpoint.name
        self._pre_tokenizer = pre_tokenizer
        self._family = architecture(checkpoint.config)
        if quantization := checkpoint.config.get("quantization_config"):
            method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
            raise InputError(f"{self.path}: the checkpoint is quantized ({method!s:.40}); give the unquantized one")
        self._fields = self._family.fields(checkpoint.config)
        self._sources = {
            weight.name: weight.source for weight in self._family.weights(checkpoint.config) if self._has(weight)
        }
        self._refuse_strangers()
        always_f32 = {weight.name for weight in self._family.weights(checkpoint.config) if weight.always_f32}
        self.tensors = lay_out(
            (
                name,
                checkpoint.tensors[self._sources[name]].shape,
                TYPES["F32" if name in always_f32 else checkpoint.tensors[self._sources[name]].dtype],
            )
            for name in sorted(self._sources, key=tensor_order)
        )

    @cached_property
    def metadata(self) -> Mapping[str, Field]:
        """General keys, the architecture's and the tokenizer's (read at the first use)."""
        tokenizer = read_tokenizer(self.path, self.checkpoint.config, self._pre_tokenizer)
        return {
            "general.architecture": string(self._family.name),
            "general.type": string("model"),
            "general.name": string(self.name),
            **self._fields,
            **tokenizer.fields(),
        }

    @property
    def fingerprint(self) -> str:
        """Hash of config, tokenizer and weights (`Checkpoint.fingerprint`)."""
        return self.checkpoint.fingerprint

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """See `Source.read_rows`."""
        stored = self.checkpoint.tensors[self._sources[name]]
        return self.checkpoint.read_rows(stored.name, start, stop), TYPES[stored.dtype]

    def stored_name(self, name: str) -> str:
        """See `Source.stored_name`."""
        return self._sources[name]

    def _has(self, weight: Weight) -> bool:
        stored = self.checkpoint.tensors.get(weight.source)
        if stored is None:
            if weight.optional:
                return False
            raise InputError(
                f"{self.path}: tensor {weight.source!r} is missing; the config wants it with {weight.shape}"
            )
        if stored.shape != weight.shape:
            raise InputError(
                f"{stored.path}: tensor {weight.source!r} has shape {stored.shape}; the config wants {weight.shape}"
            )
        if stored.dtype not in WEIGHT_DTYPES:
            raise InputError(
                f"{stored.path}: tensor {weight.source!r} is {stored.dtype};"
                f" only {', '.join(WEIGHT_DTYPES)} can be exported"
            )
        return True

    def _refuse_strangers(self) -> None:
        known = set(self._sources.values())
        for name, stored in self.checkpoint.tensors.items():
            if name not in known and not name.endswith(self._family.ignored):
                raise InputError(
                    f"{stored.path}: tensor {name[:120]!r} {stored.shape} has no place in a {self._family.name} model"
                    " of this config"
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
