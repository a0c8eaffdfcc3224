"""Hugging Face checkpoints: config.json and safetensors, in one file or several, read lazily and without torch.

Format: the safetensors README (8 bytes of header length, a JSON header, the data). Everything that a header says is
checked against the file's length before it is used. Pickles are never opened.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from converters.errors import InputError

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own bound
MAX_JSON_BYTES = 100_000_000  # Qwen's largest tokenizer.json has 13 million
MAX_TENSORS = 262_144  # Qwen3-Coder-480B, with separate experts, has about 30,000
MAX_DIMS = 8

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per element of each dtype that a safetensors header may name."""

WEIGHT_DTYPES: Mapping[str, npt.DTypeLike] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""Dtypes that weights are read in -> how numpy holds them: bfloat16 as the uint16 with the same bits."""

_READABLE: Mapping[str, npt.DTypeLike] = {**WEIGHT_DTYPES, "F8_E4M3": np.uint8}

_SAMPLE_BLOCK, _SAMPLE_BLOCKS = 4096, 8
_SHARD = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.safetensors$")
# These say nothing about what the model computes, and differ between two saves of the same model.
_UNHASHED_CONFIG_KEYS = ("_name_or_path", "transformers_version")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file: `offset` in bytes from the file's start, `dtype` by its name in the format."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A model directory. Make it with `Checkpoint.open`; use it as a context manager, or call `close`.

    In `config` the entries of `text_config`, if there are any, are merged into the root, as llama.cpp's converter does.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    _descriptors: dict[Path, int]

    @classmethod
    def open(cls, path: Path, name: str | None = None) -> Self:
        """Read the config and all headers in the directory `path`; no weight is read.

        `name` is the model's name in files made from it; the directory's name by default.
        Raises InputError for a directory, config, index, shard or header that is missing or malformed.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path}: there is no such directory")
        if not path.is_dir():
            raise InputError(f"{path}: is not a directory; give a directory with config.json and *.safetensors")
        config = read_config(path)
        tensors = _read_tensors(path)
        return cls(path, name or path.resolve().name, config, tensors, {})

    def read_rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Rows `start` to `stop` of a tensor as [stop - start, row length]; bfloat16 comes as uint16 (WEIGHT_DTYPES).

        All axes but the last count as rows; a vector is one row. F8_E4M3 comes as uint8. Safe to call from several
        threads. Raises InputError if weights cannot have this dtype, or if the file has become shorter.
        """
        tensor, dtype, width = self._readable(name, start, stop)
        row_bytes = width * DTYPE_BYTES[tensor.dtype]
        buffer = np.empty((stop - start) * row_bytes, np.uint8)
        read_into(self._descriptor(tensor.path), buffer, tensor.offset + start * row_bytes, tensor.path)
        return buffer.view(dtype).reshape(stop - start, width)

    def read_block(self, name: str, start: int, stop: int, first: int, end: int) -> npt.NDArray[np.generic]:
        """Columns `first` to `end` of rows `start` to `stop`, as `read_rows` gives them; nothing else is read."""
        tensor, dtype, width = self._readable(name, start, stop)
        if not 0 <= first <= end <= width:
            raise ValueError(f"columns {first} to {end} of {name!r}, which has {width}")
        item = DTYPE_BYTES[tensor.dtype]
        buffer = np.empty((stop - start, (end - first) * item), np.uint8)
        for i, row in enumerate(buffer):
            offset = tensor.offset + ((start + i) * width + first) * item
            read_into(self._descriptor(tensor.path), row, offset, tensor.path)
        return buffer.view(dtype)

    def _readable(self, name: str, start: int, stop: int) -> tuple[StoredTensor, npt.DTypeLike, int]:
        """The tensor, the numpy dtype that holds its values, and its row length."""
        tensor = self.tensors[name]
        dtype = _READABLE.get(tensor.dtype)
        if dtype is None:
            raise InputError(f"{tensor.path}: tensor {name!r} is {tensor.dtype}; weights must be F32, F16 or BF16")
        width = tensor.shape[-1] if tensor.shape else 1
        rows = math.prod(tensor.shape[:-1])
        if not 0 <= start <= stop <= rows:
            raise ValueError(f"rows {start} to {stop} of {name!r}, which has {rows}")
        return tensor, dtype, width

    @property
    def fingerprint(self) -> str:
        """A hash of the model's content, as 64 hexadecimal digits. It does not depend on how the model is sharded.

        SHA-256 over the config (without the keys that say nothing about the model), the tokenizer's files and, for each
        tensor by name, its dtype, shape and data: all data up to 32 KiB, otherwise 8 blocks of 4 KiB spread evenly
        from the first to the last byte. So a 400 GB model takes seconds. Training changes nearly every weight, so
        another model has another fingerprint; a few weights edited by hand between the blocks would go unnoticed.
        """
        digest = hashlib.sha256()
        config = {key: value for key, value in self.config.items() if key not in _UNHASHED_CONFIG_KEYS}
        digest.update(json.dumps(config, sort_keys=True).encode())
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
            content = self.path / file
            if content.is_file():
                digest.update(f"\0{file}\0".encode() + hashlib.sha256(content.read_bytes()).digest())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"\0{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
            for data in sample_blocks(self._descriptor(tensor.path), tensor.offset, tensor.nbytes, tensor.path):
                digest.update(data)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the files. A later read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _descriptor(self, path: Path) -> int:
        if path not in self._descriptors:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from error
            if self._descriptors.setdefault(path, descriptor) != descriptor:  # another thread was first
                os.close(descriptor)
        return self._descriptors[path]


def sample_blocks(descriptor: int, offset: int, nbytes: int, path: Path) -> Iterator[bytes]:
    """The bytes of a tensor that its fingerprint covers: all of a small tensor, evenly spread blocks of a large one."""
    if nbytes <= _SAMPLE_BLOCK * _SAMPLE_BLOCKS:
        places = [(0, nbytes)]
    else:
        last = nbytes - _SAMPLE_BLOCK
        places = [(last * i // (_SAMPLE_BLOCKS - 1), _SAMPLE_BLOCK) for i in range(_SAMPLE_BLOCKS)]
    for start, length in places:
        buffer = np.empty(length, np.uint8)
        read_into(descriptor, buffer, offset + start, path)
        yield buffer.tobytes()


def read_into(descriptor: int, buffer: npt.NDArray[np.uint8], offset: int, path: Path) -> None:
    """Fill `buffer` from `offset` in an open file. Raises InputError that names `path` if the file is too short."""
    view, done = memoryview(buffer), 0  # type: ignore[arg-type]  # numpy arrays are buffers
    while done < len(view):
        try:
            count = os.preadv(descriptor, [view[done:]], offset + done)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if count == 0:
            raise InputError(f"{path}: became shorter while it was read")
        done += count


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises InputError if the file cannot be read or holds anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise InputError(
                f"{path}: has more than {MAX_JSON_BYTES} bytes, which is too large for a model's JSON file"
            )
        content = json.loads(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: does not hold a JSON object")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """Read config.json of a model directory, with the entries of `text_config` merged into the root."""
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: has no config.json; give the directory of a Hugging Face checkpoint")
    config = read_json(path / "config.json")
    text_config = config.get("text_config", {})
    if not isinstance(text_config, dict):
        raise InputError(f"{path / 'config.json'}: text_config is not a JSON object")
    return {**config, **text_config}


def _read_tensors(path: Path) -> dict[str, StoredTensor]:
    index = path / "model.safetensors.index.json"
    weight_map = _read_index(index) if index.is_file() else None
    files = sorted(set(weight_map.values())) if weight_map is not None else _shards(path)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_safetensors_header(path / file).items():
            if name in tensors:
                raise InputError(f"{path}: tensor {name!r} is in both {tensors[name].path.name} and in {file}")
            if weight_map is not None and weight_map.get(name) != file:
                place = weight_map.get(name, "no shard")
                raise InputError(f"{index}: lists tensor {name!r} in {place}, but it is in {file}")
            tensors[name] = tensor
        if len(tensors) > MAX_TENSORS:
            raise InputError(f"{path}: has more than {MAX_TENSORS} tensors; no supported model has as many")
    if weight_map is not None and len(tensors) < len(weight_map):
        name = next(name for name in weight_map if name not in tensors)
        raise InputError(f"{path / weight_map[name]}: tensor {name!r} is missing, although the index lists it there")
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: has no weight_map; save the checkpoint again with its index")
    for name, file in weight_map.items():
        # A shard must be in the directory of its index, so that an index cannot make us open other paths.
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(f"{index}: tensor {name!r} is mapped to {file!r}, which is not the file name of a shard")
    missing = sorted(set(weight_map.values()) - _files(index.parent))
    if missing:
        raise InputError(
            f"{index.parent}: shard {missing[0]} is missing ({len(missing)} of {len(set(weight_map.values()))} are)"
        )
    return weight_map


def _files(directory: Path) -> set[str]:
    """The names of the files in a directory. Names from an index are looked up in it, because they may be invalid."""
    try:
        return {file.name for file in os.scandir(directory) if file.is_file()}
    except OSError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror}") from error


def _shards(path: Path) -> list[str]:
    files = sorted(file for file in _files(path) if file.startswith("model") and file.endswith(".safetensors"))
    if not files:
        others = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(path.glob(pattern))]
        reason = f" ({others[0]} is a pickle, which is never loaded: save the model as safetensors)" if others else ""
        raise InputError(f"{path}: has no model.safetensors and no model.safetensors.index.json{reason}")
    for file in files:
        if match := _SHARD.match(file):
            for number in range(1, int(match[3]) + 1):
                shard = f"{match[1]}-{number:05d}-of-{match[3]}.safetensors"
                if shard not in files:
                    raise InputError(f"{path}: shard {shard} is missing; download it again")
    return files


def read_safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, in the order of their data.

    Raises InputError for a header that does not match the file: a length out of bounds, invalid JSON, unknown dtypes,
    or byte ranges that overlap, leave gaps, exceed the file or contradict the shape.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length < 2:
                raise InputError(f"{path}: is not a safetensors file (it has no header)")
            if length > size - 8:
                raise InputError(
                    f"{path}: is truncated or not a safetensors file: header of {length} bytes, file of {size}"
                )
            if length > MAX_HEADER_BYTES:
                raise InputError(f"{path}: its header has {length} bytes; {MAX_HEADER_BYTES} is the format's limit")
            data = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        header = json.loads(
            data.decode(), object_pairs_hook=_object_without_duplicates, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: its header is not a JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise InputError(f"{path}: has {len(header)} tensors; no supported model has more than {MAX_TENSORS}")
    tensors = sorted(
        (_stored_tensor(path, name, entry, 8 + length) for name, entry in header.items()),
        key=lambda tensor: (tensor.offset, tensor.nbytes),
    )
    end = 8 + length
    for tensor in tensors:
        if tensor.offset != end:
            raise InputError(
                f"{path}: data of tensor {tensor.name!r} begins at byte {tensor.offset}; byte {end} was expected"
            )
        end += tensor.nbytes
    if end > size:
        raise InputError(f"{path}: is truncated: its tensors need {end} bytes, but the file has {size}")
    if end < size:
        raise InputError(f"{path}: has {size - end} bytes that belong to no tensor")
    return {tensor.name: tensor for tensor in tensors}


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object. Rejects a name that occurs twice, because readers differ on which entry is valid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _stored_tensor(path: Path, name: str, entry: Any, data_offset: int) -> StoredTensor:
    where = f"{path}: tensor {name[:120]!r}"
    if not isinstance(entry, dict):
        raise InputError(f"{where} has an entry in the header that is not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise InputError(f"{where} has dtype {dtype!r}, which is unknown")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(type(n) is int and 0 <= n < 1 << 64 for n in shape)
    ):
        raise InputError(f"{where} has shape {str(shape)[:80]}, which is not a valid shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise InputError(f"{where} has data_offsets {str(offsets)[:80]}, which are not a valid byte range")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise InputError(f"{where} has {offsets[1] - offsets[0]} bytes of data, but {dtype} {shape} needs {nbytes}")
    return StoredTensor(name, dtype, tuple(shape), path, data_offset + offsets[0], nbytes)
