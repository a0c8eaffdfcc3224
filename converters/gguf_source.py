"""A GGUF file as a source of weights, and the fingerprint that identifies its content."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.architectures import check_file
from converters.architectures.family import MAX_EXPERTS, MAX_LAYERS
from converters.checkpoint import WEIGHT_DTYPES, read_into, sample_blocks
from converters.errors import InputError
from converters.llamacpp.bindings import TensorType
from converters.llamacpp.container import (
    Field,
    GGUFHeader,
    TensorInfo,
    ValueType,
    encode_header,
    lay_out,
    tensor_order,
    text,
    whole_number,
)
from converters.llamacpp.ghost import without_vocabulary
from converters.llamacpp.quantize import UNQUANTIZED
from converters.llamacpp.reader import read_header
from converters.repairs import GGUFContents, Repair, repaired, without_mtp

# Keys that the export sets itself, or that describe how one file is stored and not the model.
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_FILE_KEYS = ("general.alignment", "general.file_type", "general.quantization_version", *_SPLIT_KEYS)


# GGUF key after the architecture's name, lowest and highest value
_COUNTS = (
    ("block_count", 1, MAX_LAYERS),
    ("nextn_predict_layers", 0, MAX_LAYERS),
    ("n_deepstack_layers", 0, MAX_LAYERS),
    ("expert_count", 0, MAX_EXPERTS),
    ("expert_used_count", 0, MAX_EXPERTS),
)
_PART = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")  # as llama-gguf-split names them


class GGUFSource:
    """A GGUF file, or a split one given by any of its parts.

    A quantized file is accepted only with `requantize`, because the losses of two quantizations add up. Without `mtp`,
    multi-token prediction layers are left out. With `repair`, known faults are repaired (repairs.py); `repairs` are
    those that were made. For a file that is not on this machine, give `headers` of all its parts in order; then there
    are no weights. Raises InputError for a file that is damaged, or that llama.cpp would abort on.
    """

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        requantize: bool = False,
        headers: Sequence[GGUFHeader] = (),
        mtp: bool = True,
        repair: bool = False,
    ) -> None:
        self._remote_headers = tuple(headers)
        headers = headers or [read_header(part) for part in parts(path)]
        first = headers[0]
        self.path = path
        self.name = name or text(first.metadata, "general.name") or model_stem(path)
        if not first.architecture or not first.tensors:
            raise InputError(f"{path}: is not a model: it has no general.architecture or no tensors")
        stored: dict[str, tuple[GGUFHeader, TensorInfo]] = {}
        for header in headers:
            for tensor in header.tensors:
                if stored.setdefault(tensor.name, (header, tensor))[1] is not tensor:
                    raise InputError(f"{header.path}: tensor {tensor.name!r} is also in another part")
                if tensor.type.name not in UNQUANTIZED and not requantize:
                    raise InputError(
                        f"{header.path}: is already quantized ({tensor.name} is {tensor.type.name}); quantizing twice"
                        " loses more than the smaller type alone: give the checkpoint or its F32, F16 or BF16 file,"
                        " or allow it by --requantize (`sweep eval` measures the file as it is)"
                    )
        _check_count(path, headers, len(stored))
        contents = GGUFContents(first.architecture, first.metadata, {name: name for name in stored})
        self.repairs: tuple[Repair, ...] = ()
        if repair:
            contents, self.repairs = repaired(contents)
        if not mtp:
            contents = without_mtp(contents)
        first = replace(first, metadata=contents.metadata)
        self._infos = {name: stored[known] for name, known in contents.names.items()}
        _check_counts(first)
        check_file(first, self._infos.keys())
        self.tensors = lay_out(
            (name, self._infos[name][1].shape, self._infos[name][1].type)
            for name in sorted(self._infos, key=tensor_order)
        )
        self.metadata: Mapping[str, Field] = {
            key: field for key, field in first.metadata.items() if key not in _FILE_KEYS
        }
        self.file_bytes = sum(header.file_bytes for header in headers)
        self._descriptors: dict[Path, int] = {}

    def with_repairs(self) -> "GGUFSource":
        """The same file with all known faults repaired; `repairs` are those that it has. Raises InputError."""
        return GGUFSource(self.path, self.name, True, self._remote_headers, repair=True)

    @property
    def is_quantized(self) -> bool:
        """Whether any tensor has a quantized type."""
        return any(tensor.type.name not in UNQUANTIZED for tensor in self.tensors)

    @property
    def structure(self) -> Mapping[str, Field]:
        """See `Source.structure`."""
        return without_vocabulary(self.metadata)

    @property
    def fingerprint(self) -> str:
        """See `gguf_fingerprint`. For a file that is not on this machine, a hash of its headers."""
        return _header_fingerprint(self._remote_headers) if self._remote_headers else gguf_fingerprint(self.path)

    def stored_name(self, name: str, row: int = 0) -> str:
        """See `Source.stored_name`."""
        return self._infos[name][1].name

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def _descriptor(self, path: Path) -> int:
        if path not in self._descriptors:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from error
            if self._descriptors.setdefault(path, descriptor) != descriptor:  # another thread was first
                os.close(descriptor)
        return self._descriptors[path]

    def read_rows(self, name: str, start: int, stop: int) -> tuple[npt.NDArray[np.generic], TensorType]:
        """See `Source.read_rows`."""
        header, info = self._infos[name]
        row_bytes = info.type.row_bytes(info.shape[-1])
        buffer = np.empty((stop - start) * row_bytes, np.uint8)
        offset = header.data_offset + info.offset + start * row_bytes
        read_into(self._descriptor(header.path), buffer, offset, header.path)
        rows = buffer.view(WEIGHT_DTYPES.get(info.type.name, np.uint8))
        return rows.reshape(stop - start, -1), info.type


def model_stem(path: Path) -> str:
    """The file name of a model without its extension and without the number of a part."""
    match = _PART.match(path.name)
    return path.stem if match is None else match[1]


def part_count(name: str) -> int:
    """The number of parts of a split file, from the name of one part; 1 for a file that is not split."""
    match = _PART.match(name)
    return 1 if match is None else int(match[3])


def part_names(name: str) -> list[str]:
    """The names of all parts of a split file, from the name of one part; for a file that is not split its own name."""
    match = _PART.match(name)
    if match is None or part_count(name) < 2:
        return [name]
    return [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def parts(path: Path) -> list[Path]:
    """The files of a model: all parts of a split file in order, or the file itself.

    Parts are named as llama-gguf-split names them. Raises InputError if a part is missing.
    """
    files = [path.with_name(name) for name in part_names(path.name)]
    missing = [file.name for file in files if not file.is_file()]
    if missing and len(files) > 1:
        raise InputError(f"{path.parent}: part {missing[0]} is missing ({len(missing)} of {len(files)} are)")
    return files if len(files) > 1 else [path]


def _check_count(path: Path, headers: Sequence[GGUFHeader], tensors: int) -> None:
    """Compare the numbers of parts and tensors that the first part states with what is there."""
    first = headers[0]
    count = whole_number(first.path, first.metadata, "split.count", 1, type_=ValueType.UINT16) or 1
    if count != len(headers):
        raise InputError(
            f"{path}: is one of {count} parts, but its name does not say so; restore the parts' original names"
        )
    due = whole_number(first.path, first.metadata, "split.tensors.count", tensors, type_=ValueType.INT32)
    if due != tensors:
        raise InputError(f"{path}: its parts have {tensors} tensors, but its header says {due}")


def _check_counts(header: GGUFHeader) -> None:
    """Check the counts that this program computes with, and those with which llama.cpp would abort the process."""
    found = {
        key: whole_number(header.path, header.metadata, f"{header.architecture}.{key}", 0, low, high)
        for key, low, high in _COUNTS
    }
    for part, whole in (("nextn_predict_layers", "block_count"), ("expert_used_count", "expert_count")):
        if found[part] > found[whole]:
            raise InputError(f"{header.path}: {part} is {found[part]}, but {whole} is {found[whole]}")
    if found["expert_count"] and not found["expert_used_count"]:
        raise InputError(
            f"{header.path}: has {found['expert_count']} experts but uses none of them (expert_used_count is 0)"
        )


def _header_fingerprint(headers: Sequence[GGUFHeader]) -> str:
    digest = hashlib.sha256(b"headers\0")
    for header in headers:
        digest.update(encode_header(header.metadata, header.tensors))
    return digest.hexdigest()


def gguf_fingerprint(path: Path) -> str:
    """SHA-256 over the whole header of a GGUF file and, per tensor, the blocks that `Checkpoint.fingerprint` reads.

    For a split file it covers all parts.
    """
    digest = hashlib.sha256()
    for part in parts(path):
        header = read_header(part)
        with part.open("rb") as file:
            digest.update(file.read(header.data_offset))
            for tensor in header.tensors:
                for data in sample_blocks(file.fileno(), header.data_offset + tensor.offset, tensor.nbytes, part):
                    digest.update(data)
    return digest.hexdigest()
