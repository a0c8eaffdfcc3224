"""A bounded reader of GGUF headers that checks everything in the file. Format: see container.py."""

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

from converters.errors import InputError
from converters.llamacpp.bindings import TYPES_BY_ID
from converters.llamacpp.container import (
    ALIGNMENT,
    FORMATS,
    MAGIC,
    MAX_DIMS,
    MAX_NAME,
    Field,
    GGUFHeader,
    TensorInfo,
    ValueType,
    padded,
    whole_number,
)

# Bounds on the counts in a file. Qwen3.5-397B has about 1,100 tensors; headers of published models are below 20 MB,
# nearly all of it vocabulary.
MAX_TENSORS = 65_536
MAX_FIELDS = 65_536
MAX_HEADER_BYTES = 64 << 20
MAX_TEXTS = 1 << 21  # tokens and merges together; Qwen's largest vocabulary has about half a million
MAX_KEY = 65_535  # bytes; the format's own bound


class _Cursor:
    """Reads forward through a file in pieces, but not past its end or past the limit for headers."""

    def __init__(self, read: Callable[[int, int], bytes], file_bytes: int, path: Path, ahead: int) -> None:
        self.read, self.limit, self.path, self.ahead = read, min(file_bytes, MAX_HEADER_BYTES), path, ahead
        self.truncated = file_bytes <= MAX_HEADER_BYTES
        self.position = 0  # in the file
        self.texts = 0  # strings read so far as items of lists
        self.buffer, self.start = b"", 0  # the bytes held, and their offset in the file

    def take(self, count: int, what: str) -> bytes:
        end = self.position + count
        if end > self.limit:
            reason = "is truncated" if self.truncated else f"has a header of more than {MAX_HEADER_BYTES >> 20} MiB"
            raise InputError(f"{self.path}: {reason}: {what} would end at byte {end}, but the limit is {self.limit}")
        if end > self.start + len(self.buffer):
            length = min(max(count, self.ahead), self.limit - self.position)
            self.buffer, self.start = self.read(length, self.position), self.position
            if len(self.buffer) < count:
                raise InputError(f"{self.path}: became shorter while it was read")
        data = self.buffer[self.position - self.start : end - self.start]
        self.position = end
        return data

    def number(self, format_: str, what: str) -> int:
        return int(struct.unpack("<" + format_, self.take(struct.calcsize("<" + format_), what))[0])

    def string(self, what: str, limit: int = MAX_HEADER_BYTES) -> bytes:
        head = self.take(8, what)
        (length,) = struct.unpack("<Q", head)
        if limit < length <= self.limit - self.position:
            raise InputError(f"{self.path}: {what} has {length} bytes; {limit} is the limit")
        return head + self.take(length, what)


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file.

    Raises InputError for everything that llama.cpp would reject or crash on: a wrong magic or version, counts and
    lengths beyond the file, duplicate names, unknown types, rows that are not a multiple of the block, and data outside
    the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return parse_header(
            lambda count, offset: os.pread(descriptor, count, offset), os.fstat(descriptor).st_size, path
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def parse_header(read: Callable[[int, int], bytes], file_bytes: int, path: Path, ahead: int = 1 << 20) -> GGUFHeader:
    """Read the header of a file of `file_bytes` bytes, local or remote, by `read(count, offset)`. See `read_header`.

    At least `ahead` bytes are requested at a time, as far as the file has them.
    """
    cursor = _Cursor(read, file_bytes, path, ahead)
    if file_bytes < 24 or cursor.take(4, "the magic") != MAGIC:
        raise InputError(f"{path}: is not a GGUF file (its first four bytes are not 'GGUF')")
    version = cursor.number("I", "the version")
    if version not in (2, 3):
        raise InputError(f"{path}: GGUF version {version} is not supported; only 2 and 3, little-endian, are")
    n_tensors, n_fields = cursor.number("Q", "the tensor count"), cursor.number("Q", "the metadata count")
    if n_tensors > MAX_TENSORS or n_fields > MAX_FIELDS:
        raise InputError(
            f"{path}: claims {n_tensors} tensors and {n_fields} metadata keys; no supported model has as many"
        )

    metadata: dict[str, Field] = {}
    for _ in range(n_fields):
        key = _decoded(cursor.string("a metadata key", MAX_KEY)[8:], path)
        if key in metadata or not key:
            raise InputError(f"{path}: metadata key {key!r} is empty or occurs twice")
        metadata[key] = _read_field(cursor, key)
    alignment = whole_number(path, metadata, "general.alignment", ALIGNMENT, 8, 1 << 20)
    if alignment & (alignment - 1):
        raise InputError(f"{path}: general.alignment is {alignment}, which is not a power of two")

    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    expected = 0
    for _ in range(n_tensors):
        tensor = _read_tensor(cursor)
        if tensor.name in seen:
            raise InputError(f"{path}: tensor {tensor.name!r} occurs twice")
        if tensor.offset != expected:
            raise InputError(f"{path}: tensor {tensor.name!r} has offset {tensor.offset}; {expected} was expected")
        seen.add(tensor.name)
        tensors.append(tensor)
        expected += padded(tensor.nbytes, alignment)
    data_offset = padded(cursor.position, alignment)
    needed = data_offset + tensors[-1].offset + tensors[-1].nbytes if tensors else cursor.position
    if needed > file_bytes:
        raise InputError(f"{path}: is truncated: its tensors need {needed} bytes, but the file has {file_bytes}")
    return GGUFHeader(path, metadata, tuple(tensors), data_offset, file_bytes)


def _decoded(data: bytes, path: Path) -> str:
    """Decode a name. A zero byte is rejected: llama.cpp reads a name only up to it, so two names could be the same."""
    try:
        name = data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: a name in the header is not UTF-8: {data[:40]!r}") from None
    if "\0" in name:
        raise InputError(f"{path}: the name {name[:40]!r} in the header has a zero byte")
    return name


def _read_field(cursor: _Cursor, key: str) -> Field:
    what = f"the value of {key!r}"
    type_ = _value_type(cursor, what)
    if type_ is ValueType.STRING:
        return Field(type_, cursor.string(what))
    if type_ is not ValueType.ARRAY:
        return Field(type_, cursor.take(struct.calcsize("<" + FORMATS[type_]), what))
    item_type = _value_type(cursor, what)
    count = cursor.number("Q", what)
    head = struct.pack("<IQ", item_type, count)
    if item_type is ValueType.ARRAY:
        raise InputError(f"{cursor.path}: {what} is an array of arrays, which llama.cpp does not read")
    if item_type is ValueType.STRING:
        cursor.texts += count
        if count * 8 > cursor.limit - cursor.position or cursor.texts > MAX_TEXTS:
            raise InputError(
                f"{cursor.path}: {what} claims {count} strings, more than the file can hold or any model has"
            )
        return Field(type_, head + b"".join([cursor.string(what) for _ in range(count)]))
    return Field(type_, head + cursor.take(count * struct.calcsize("<" + FORMATS[item_type]), what))


def _value_type(cursor: _Cursor, what: str) -> ValueType:
    number = cursor.number("I", what)
    try:
        return ValueType(number)
    except ValueError:
        raise InputError(f"{cursor.path}: {what} has type {number}, which GGUF does not have") from None


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    path = cursor.path
    name = _decoded(cursor.string("a tensor's name", MAX_NAME)[8:], path)
    if not name:
        raise InputError(f"{path}: a tensor has no name")
    n_dims = cursor.number("I", f"the shape of {name!r}")
    if not 1 <= n_dims <= MAX_DIMS:
        raise InputError(f"{path}: tensor {name!r} has {n_dims} dimensions; 1 to {MAX_DIMS} are allowed")
    dims = struct.unpack(f"<{n_dims}Q", cursor.take(8 * n_dims, f"the shape of {name!r}"))
    if min(dims) == 0 or math.prod(dims) >= 1 << 56:
        raise InputError(f"{path}: tensor {name!r} has the impossible shape {tuple(reversed(dims))}")
    number = cursor.number("I", f"the type of {name!r}")
    if number not in TYPES_BY_ID:
        raise InputError(f"{path}: tensor {name!r} has type number {number}, which this llama.cpp does not have")
    type_ = TYPES_BY_ID[number]
    if dims[0] % type_.block_elements:
        raise InputError(
            f"{path}: rows of tensor {name!r} have {dims[0]} values,"
            f" which is not a multiple of {type_.block_elements}, the block of {type_.name}"
        )
    return TensorInfo(name, tuple(reversed(dims)), type_, cursor.number("Q", f"the offset of {name!r}"))
