"""The GGUF container: a bounded reader of headers that trusts nothing in the file, and the writer of headers.

Format: docs/gguf.md of the ggml project, versions 2 and 3, little-endian. Metadata values are kept as the bytes they
have in the file, so that a file made from another one carries them unchanged.
"""

import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.errors import InputError
from converters.llamacpp.bindings import TYPES_BY_ID, TensorType

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # llama.cpp's default, and what its quantizer always writes
MAX_NAME = 63  # GGML_MAX_NAME with its closing zero is 64
MAX_DIMS = 4
# Bounds on what a file may claim. Qwen3.5-397B has about 1,100 tensors; real headers are below 20 MB, nearly all of it
# vocabulary.
MAX_TENSORS = 65_536
MAX_FIELDS = 65_536
MAX_HEADER_BYTES = 64 << 20
MAX_TEXTS = 1 << 21  # tokens and merges together; Qwen's largest vocabulary has about half a million
MAX_KEY = 65_535  # bytes; the format's own bound

NORMALIZER_KEY = "bitsweep.tokenizer.normalizer"
"""Unicode normalization that the original tokenizer applies and llama.cpp skips: "NFC" or "none"."""


class ValueType(IntEnum):
    """Types of metadata values, by their numbers in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@dataclass(frozen=True)
class Field:
    """One metadata value: its type and its bytes as they stand in the file (for arrays: item type, count, items)."""

    type: ValueType
    payload: bytes

    @cached_property
    def value(self) -> Any:
        """The value as Python's own type: int, float, bool, str, or a list of these."""
        if self.type is ValueType.STRING:
            return self.payload[8:].decode(errors="replace")
        if self.type is not ValueType.ARRAY:
            return struct.unpack("<" + _FORMATS[self.type], self.payload)[0]
        item_type, count = self.item_type, self.count
        if item_type is None or item_type is ValueType.ARRAY:
            raise ValueError("arrays of arrays are not read")
        if item_type is not ValueType.STRING:
            return list(struct.unpack_from(f"<{count}{_FORMATS[item_type]}", self.payload, 12))
        items, position = [], 12
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", self.payload, position)
            items.append(self.payload[position + 8 : position + 8 + length].decode(errors="replace"))
            position += 8 + length
        return items

    @property
    def item_type(self) -> ValueType | None:
        """Type of an array's items; None for anything else."""
        return ValueType(struct.unpack_from("<I", self.payload)[0]) if self.type is ValueType.ARRAY else None

    @property
    def count(self) -> int:
        """Number of items of an array; 1 for anything else."""
        return struct.unpack_from("<Q", self.payload, 4)[0] if self.type is ValueType.ARRAY else 1


def uint32(value: int) -> Field:
    """A whole number as llama.cpp's integer keys want it."""
    return number(ValueType.UINT32, value)


def float32(value: float) -> Field:
    """A real number in single precision."""
    return Field(ValueType.FLOAT32, struct.pack("<f", value))


def number(type_: ValueType, value: int) -> Field:
    """A whole number of a type that a key asks for."""
    return Field(type_, struct.pack("<" + _FORMATS[type_], value))


def boolean(value: bool) -> Field:
    """A truth value."""
    return Field(ValueType.BOOL, struct.pack("<?", value))


def string(value: str) -> Field:
    """A text in UTF-8."""
    return Field(ValueType.STRING, _string_bytes(value))


def strings(values: Sequence[str]) -> Field:
    """A list of texts."""
    head = struct.pack("<IQ", ValueType.STRING, len(values))
    try:
        texts = [value.encode() for value in values]
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise InputError(f"the text {error.object[:40]!r} is no valid Unicode, which GGUF needs") from None
    length = struct.Struct("<Q").pack
    return Field(ValueType.ARRAY, head + b"".join([piece for text in texts for piece in (length(len(text)), text)]))


def numbers(item_type: ValueType, values: Sequence[float]) -> Field:
    """A list of numbers or truth values, all of `item_type`."""
    head = struct.pack("<IQ", item_type, len(values))
    return Field(ValueType.ARRAY, head + struct.pack(f"<{len(values)}{_FORMATS[item_type]}", *values))


def _string_bytes(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise InputError(f"the text {value[:40]!r} is no valid Unicode, which GGUF needs") from None
    return struct.pack("<Q", len(data)) + data


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a header names it. `shape` is in numpy's order (rows last); `offset` counts from the data section."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the tensor's data, without padding."""
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class Header:
    """All of a GGUF file but its data. Offsets and sizes have been held against the file's length."""

    path: Path
    metadata: Mapping[str, Field]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_bytes: int

    @property
    def architecture(self) -> str:
        return text(self.metadata, "general.architecture")

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors without padding: the weights as they are loaded."""
        return sum(tensor.nbytes for tensor in self.tensors)


def text(metadata: Mapping[str, Field], key: str) -> str:
    """The text under `key`, or "" where the key is absent or no text."""
    field = metadata.get(key)
    return field.value if field is not None and field.type is ValueType.STRING else ""


def whole_number(
    path: Path,
    metadata: Mapping[str, Field],
    key: str,
    default: int = 0,
    low: int = 0,
    high: int = 2**31 - 1,
    type_: ValueType = ValueType.UINT32,
) -> int:
    """The number under `key`, or `default` where the key is absent. InputError for another type and out of bounds."""
    field = metadata.get(key)
    if field is None:
        return default
    if field.type is not type_ or not low <= field.value <= high:
        found = field.value if field.type is type_ else field.type.name
        raise InputError(f"{path}: {key} is {found}; expected {type_.name} from {low} to {high}")
    return int(field.value)


def normalizer(metadata: Mapping[str, str]) -> str:
    """Unicode form ("NFC" or "none") that text must have before llama.cpp tokenizes it, from a file's text metadata.

    llama.cpp has no normalizer of its own. Files of this project say what the tokenizer had; those of others do not,
    and all of Qwen's published tokenizers normalize to NFC.
    """
    known = metadata.get(NORMALIZER_KEY)
    if known is not None:
        return known
    return "NFC" if metadata.get("tokenizer.ggml.pre") in ("qwen2", "qwen35") else "none"


def padded(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // alignment) * alignment


def tensor_order(name: str) -> tuple[int, str]:
    """Sort key of tensors in files that llama.cpp writes: what belongs to no block first, then block by block."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (int(match[1]) if match else -1, name)


def lay_out(tensors: Iterable[tuple[str, tuple[int, ...], TensorType]]) -> tuple[TensorInfo, ...]:
    """Give each (name, shape, type) its place in the data section: in the order given, each aligned."""
    infos, offset = [], 0
    for name, shape, type_ in tensors:
        info = TensorInfo(name, shape, type_, offset)
        infos.append(info)
        offset += padded(info.nbytes)
    return tuple(infos)


def data_bytes(tensors: Sequence[TensorInfo]) -> int:
    """Length of the data section, the padding after the last tensor included."""
    return tensors[-1].offset + padded(tensors[-1].nbytes) if tensors else 0


def encode_header(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> bytes:
    """The bytes of a GGUF file before its data section, padded so that the data section may follow."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, field in metadata.items():
        parts += [_string_bytes(key), struct.pack("<I", field.type), field.payload]
    for tensor in tensors:
        dims = tuple(reversed(tensor.shape))
        parts += [
            _string_bytes(tensor.name),
            struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type.id, tensor.offset),
        ]
    data = b"".join(parts)
    return data.ljust(padded(len(data)), b"\0")


class _Cursor:
    """Reads forward through a file in pieces, and never past its end or past the bound on headers."""

    def __init__(self, read: Callable[[int, int], bytes], file_bytes: int, path: Path) -> None:
        self.read, self.limit, self.path = read, min(file_bytes, MAX_HEADER_BYTES), path
        self.truncated = file_bytes <= MAX_HEADER_BYTES
        self.position = 0  # in the file
        self.texts = 0  # read so far as items of lists
        self.buffer, self.start = b"", 0  # what is held, and where it begins in the file

    def take(self, count: int, what: str) -> bytes:
        end = self.position + count
        if end > self.limit:
            reason = "is truncated" if self.truncated else f"has a header of over {MAX_HEADER_BYTES >> 20} MiB"
            raise InputError(f"{self.path}: {reason}: {what} would end at byte {end}, the limit is {self.limit}")
        if end > self.start + len(self.buffer):
            wanted = min(max(count, 1 << 20), self.limit - self.position)
            self.buffer, self.start = self.read(wanted, self.position), self.position
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


def read_header(path: Path) -> Header:
    """Read and check the header of a GGUF file.

    Raises InputError for anything llama.cpp would refuse or die of: wrong magic or version, counts and lengths beyond
    the file, names that repeat, types it does not have, rows that are no multiple of the block, data outside the file.
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


def parse_header(read: Callable[[int, int], bytes], file_bytes: int, path: Path) -> Header:
    """The header of a file of so many bytes, wherever it is: `read` gets (count, offset). See `read_header`."""
    cursor = _Cursor(read, file_bytes, path)
    if file_bytes < 24 or cursor.take(4, "the magic") != MAGIC:
        raise InputError(f"{path}: is no GGUF file (its first four bytes are not 'GGUF')")
    version = cursor.number("I", "the version")
    if version not in (2, 3):
        raise InputError(f"{path}: GGUF version {version} is not supported (2 and 3 little-endian are)")
    n_tensors, n_fields = cursor.number("Q", "the tensor count"), cursor.number("Q", "the metadata count")
    if n_tensors > MAX_TENSORS or n_fields > MAX_FIELDS:
        raise InputError(f"{path}: claims {n_tensors} tensors and {n_fields} metadata keys; no real model has as many")

    metadata: dict[str, Field] = {}
    for _ in range(n_fields):
        key = _decoded(cursor.string("a metadata key", MAX_KEY)[8:], path)
        if key in metadata or not key:
            raise InputError(f"{path}: metadata key {key!r} is empty or stands there twice")
        metadata[key] = _read_field(cursor, key)
    alignment = whole_number(path, metadata, "general.alignment", ALIGNMENT, 8, 1 << 20)
    if alignment & (alignment - 1):
        raise InputError(f"{path}: general.alignment is {alignment}, which is no power of two")

    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    expected = 0
    for _ in range(n_tensors):
        tensor = _read_tensor(cursor)
        if tensor.name in seen:
            raise InputError(f"{path}: tensor {tensor.name!r} stands there twice")
        if tensor.offset != expected:
            raise InputError(f"{path}: tensor {tensor.name!r} has offset {tensor.offset}, expected {expected}")
        seen.add(tensor.name)
        tensors.append(tensor)
        expected += padded(tensor.nbytes, alignment)
    data_offset = padded(cursor.position, alignment)
    needed = data_offset + tensors[-1].offset + tensors[-1].nbytes if tensors else cursor.position
    if needed > file_bytes:
        raise InputError(f"{path}: is truncated: its tensors need {needed} bytes, the file has {file_bytes}")
    return Header(path, metadata, tuple(tensors), data_offset, file_bytes)


def _decoded(data: bytes, path: Path) -> str:
    """A name. llama.cpp sees it up to the first zero byte only, so that two could be one."""
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
        return Field(type_, cursor.take(struct.calcsize("<" + _FORMATS[type_]), what))
    item_type = _value_type(cursor, what)
    count = cursor.number("Q", what)
    head = struct.pack("<IQ", item_type, count)
    if item_type is ValueType.ARRAY:
        raise InputError(f"{cursor.path}: {what} is an array of arrays, which llama.cpp does not read")
    if item_type is ValueType.STRING:
        cursor.texts += count
        if count * 8 > cursor.limit - cursor.position or cursor.texts > MAX_TEXTS:
            raise InputError(f"{cursor.path}: {what} claims {count} texts, more than the file can hold or a model has")
        return Field(type_, head + b"".join([cursor.string(what) for _ in range(count)]))
    return Field(type_, head + cursor.take(count * struct.calcsize("<" + _FORMATS[item_type]), what))


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
        raise InputError(f"{path}: tensor {name!r} has {n_dims} dimensions; 1 to {MAX_DIMS} are possible")
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
            f" no multiple of {type_.block_elements} ({type_.name})"
        )
    return TensorInfo(name, tuple(reversed(dims)), type_, cursor.number("Q", f"the offset of {name!r}"))
