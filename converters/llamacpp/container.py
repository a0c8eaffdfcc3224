"""The GGUF container: the content of a header, and the writer of headers. The reader is in reader.py.

Format: ggml's docs/gguf.md, versions 2 and 3, little-endian. Metadata values are kept as the bytes in the file, so that
a file made from another one carries them unchanged.
"""

import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.errors import InputError
from converters.llamacpp.bindings import TensorType

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # llama.cpp's default, which its quantizer always writes
MAX_NAME = 63  # GGML_MAX_NAME is 64, including the final zero
MAX_DIMS = 4


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


FORMATS = {
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
    """A metadata value: its type and its bytes in the file (for arrays: item type, count, items)."""

    type: ValueType
    payload: bytes

    @cached_property
    def value(self) -> Any:
        """The value as a Python int, float, bool or str, or as a list of them."""
        if self.type is ValueType.STRING:
            return self.payload[8:].decode(errors="replace")
        if self.type is not ValueType.ARRAY:
            return struct.unpack("<" + FORMATS[self.type], self.payload)[0]
        item_type, count = self.item_type, self.count
        if item_type is None or item_type is ValueType.ARRAY:
            raise ValueError("arrays of arrays are not supported")
        if item_type is not ValueType.STRING:
            return list(struct.unpack_from(f"<{count}{FORMATS[item_type]}", self.payload, 12))
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
    """A whole number, in the type of most of llama.cpp's integer keys."""
    return number(ValueType.UINT32, value)


def float32(value: float) -> Field:
    """A number in single precision."""
    return Field(ValueType.FLOAT32, struct.pack("<f", value))


def number(type_: ValueType, value: int) -> Field:
    """A whole number of type `type_`."""
    return Field(type_, struct.pack("<" + FORMATS[type_], value))


def boolean(value: bool) -> Field:
    """A boolean."""
    return Field(ValueType.BOOL, struct.pack("<?", value))


def string(value: str) -> Field:
    """A string in UTF-8. Raises InputError for half of a surrogate pair."""
    return Field(ValueType.STRING, _string_bytes(value))


def strings(values: Sequence[str]) -> Field:
    """A list of strings. Raises InputError for half of a surrogate pair."""
    head = struct.pack("<IQ", ValueType.STRING, len(values))
    try:
        texts = [value.encode() for value in values]
    except UnicodeEncodeError as error:  # JSON can express half of a surrogate pair
        raise InputError(f"the text {error.object[:40]!r} is not valid Unicode, which GGUF requires") from None
    length = struct.Struct("<Q").pack
    return Field(ValueType.ARRAY, head + b"".join([piece for text in texts for piece in (length(len(text)), text)]))


def numbers(item_type: ValueType, values: Sequence[float]) -> Field:
    """A list of numbers or booleans, all of type `item_type`."""
    head = struct.pack("<IQ", item_type, len(values))
    return Field(ValueType.ARRAY, head + struct.pack(f"<{len(values)}{FORMATS[item_type]}", *values))


def _string_bytes(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:  # JSON can express half of a surrogate pair
        raise InputError(f"the text {value[:40]!r} is not valid Unicode, which GGUF requires") from None
    return struct.pack("<Q", len(data)) + data


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a header. `shape` is in numpy's order (columns last); `offset` (bytes) starts at the data section."""

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
class GGUFHeader:
    """Everything in a GGUF file except its data. Offsets and sizes were checked against the file's length."""

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
        """Bytes of all tensors without padding, which is the size of the weights in memory."""
        return sum(tensor.nbytes for tensor in self.tensors)


def text(metadata: Mapping[str, Field], key: str) -> str:
    """The string under `key`, or "" if the key is missing or not a string."""
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
    """The number under `key`, or `default` if the key is missing.

    Raises InputError if it has another type than `type_`, or is not within `low` and `high`.
    """
    field = metadata.get(key)
    if field is None:
        return default
    if field.type is not type_ or not low <= field.value <= high:
        found = field.value if field.type is type_ else field.type.name
        raise InputError(f"{path}: {key} is {found}; expected {type_.name} from {low} to {high}")
    return int(field.value)


def padded(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // alignment) * alignment


def tensor_order(name: str) -> tuple[int, str]:
    """Sort key of tensors in llama.cpp's files: tensors that belong to no block first, then block by block."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (int(match[1]) if match else -1, name)


def lay_out(tensors: Iterable[tuple[str, tuple[int, ...], TensorType]]) -> tuple[TensorInfo, ...]:
    """Give each (name, shape, type) an aligned offset in the data section, in the given order."""
    infos, offset = [], 0
    for name, shape, type_ in tensors:
        info = TensorInfo(name, shape, type_, offset)
        infos.append(info)
        offset += padded(info.nbytes)
    return tuple(infos)


def data_bytes(tensors: Sequence[TensorInfo]) -> int:
    """Bytes of the data section, including the padding after the last tensor."""
    return tensors[-1].offset + padded(tensors[-1].nbytes) if tensors else 0


def encode_header(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> bytes:
    """The bytes of a GGUF file before its data section, padded to the alignment."""
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


def header_bytes(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> int:
    """The length of the result of `encode_header` in bytes, without making it."""
    fields = sum(12 + len(key.encode()) + len(field.payload) for key, field in metadata.items())
    infos = sum(24 + len(tensor.name.encode()) + 8 * len(tensor.shape) for tensor in tensors)
    return padded(24 + fields + infos)
