"""The reader and writer of GGUF headers, compared with the gguf package and ggml's reader, and on malformed files."""

import ctypes
import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from converters.errors import InputError
from converters.llamacpp import container
from converters.llamacpp.bindings import TYPES, ggml
from converters.llamacpp.container import ValueType, encode_header, lay_out
from converters.llamacpp.reader import read_header


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A file written by the gguf package, with every type of value and several tensor types and shapes."""
    path = tmp_path / "good.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_uint32("a.uint32", 2**32 - 1)
    writer.add_int64("a.int64", -(2**40))
    writer.add_float32("a.float32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "blåbær")
    writer.add_array("a.strings", ["one", "", "drei"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_tensor("first.weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("second.weight", np.zeros((2, 3, 64), np.float16))
    writer.add_tensor("third.weight", np.zeros((2, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_reader_reads_what_the_gguf_package_wrote(good: Path) -> None:
    header = read_header(good)
    values = {key: field.value for key, field in header.metadata.items()}
    assert values == {
        "general.architecture": "qwen3", "a.uint32": 2**32 - 1, "a.int64": -(2**40), "a.float32": 0.5, "a.bool": True,
        "a.string": "blåbær", "a.strings": ["one", "", "drei"], "a.ints": [1, -2, 3],
    }  # fmt: skip
    theirs = gguf.GGUFReader(good)
    assert [(t.name, t.shape, t.type.name, header.data_offset + t.offset, t.nbytes) for t in header.tensors] == [
        (t.name, tuple(int(n) for n in reversed(t.shape)), t.tensor_type.name, t.data_offset, t.n_bytes)
        for t in theirs.tensors
    ]


def test_the_writer_reproduces_the_bytes_that_were_read(good: Path) -> None:
    header = read_header(good)
    assert encode_header(header.metadata, header.tensors) == good.read_bytes()[: header.data_offset]


def test_values_are_encoded_as_the_gguf_package_reads_them(tmp_path: Path) -> None:
    fields = {
        "general.architecture": container.string("x"),
        "i": container.uint32(7),
        "f": container.float32(1e-6),
        "b": container.boolean(False),
        "s": container.strings(["å", "b"]),
        "n": container.numbers(ValueType.INT32, [4, -5]),
    }
    path = tmp_path / "own.gguf"
    path.write_bytes(encode_header(fields, lay_out([("t", (2, 32), TYPES["F32"])])) + bytes(256))
    read = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF")}
    read["f"] = pytest.approx(read["f"])
    assert {key: field.value for key, field in fields.items()} == read


def test_types_are_those_of_the_format() -> None:
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":  # never stored; the package still has an old size
            continue
        assert (TYPES[kind.name].id, TYPES[kind.name].block_elements, TYPES[kind.name].block_bytes) == (
            kind,
            block,
            size,
        )


HEAD = b"GGUF" + struct.pack("<I", 3)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes = b"t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a GGUF"),
        (b"GGUF", "not a GGUF"),
        (b"PK\3\4" + bytes(100), "not a GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 "),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version"),
        (HEAD + struct.pack("<QQ", 2**63, 0), "tensors"),
        (HEAD + struct.pack("<QQ", 1_000_000, 0), "1000000 tensors"),
        (HEAD + struct.pack("<QQ", 0, 2**40), "metadata keys"),
        (HEAD + struct.pack("<QQ", 1, 0), "truncated"),
        (HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62) + b"x", "truncated"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<I", 99), "type 99"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 2**61), "more than the file"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, 2**62), "truncated"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1), "array of arrays"),
        (HEAD + struct.pack("<QQ", 0, 2) + 2 * (text(b"k") + struct.pack("<II", 4, 1)), "twice"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"\xff\xfe") + struct.pack("<II", 4, 1), "UTF-8"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 3), "general.alignment"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0), "general.alignment"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(kind=77), "type number 77"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(kind=4), "type number 4"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(dims=(31,), kind=8), "multiple of 32"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(dims=(0,)), "impossible shape"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(dims=(2**32, 2**32)), "impossible shape"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(dims=(1,) * 5), "5 dimensions"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(name=b"n" * 64), "a tensor's name has 64 bytes; 63 is the limit"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(offset=32) + bytes(500), "offset 32"),
        (HEAD + struct.pack("<QQ", 2, 0) + tensor() + tensor(offset=128) + bytes(500), "twice"),
        (HEAD + struct.pack("<QQ", 2, 0) + tensor() + tensor(b"u", offset=2**63) + bytes(500), "offset"),
        (HEAD + struct.pack("<QQ", 1, 0) + tensor(dims=(2**40,)) + bytes(500), "truncated"),
    ],
)
def test_malformed_files_are_rejected(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_header(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_truncated_anywhere_is_rejected(good: Path, tmp_path: Path) -> None:
    whole = good.read_bytes()
    cut = tmp_path / "cut.gguf"
    end = read_header(good).data_offset + read_header(good).tensors[-1].offset + read_header(good).tensors[-1].nbytes
    for length in range(0, end, 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_header(cut)


class GGUFInitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def ggml_tensors(path: Path) -> list[tuple[str, int]] | None:
    """Names and offsets of the tensors according to ggml's reader; None if it rejects the file."""
    declarations = {
        "gguf_init_from_file": ([ctypes.c_char_p, GGUFInitParams], ctypes.c_void_p),
        "gguf_free": ([ctypes.c_void_p], None),
        "gguf_get_n_tensors": ([ctypes.c_void_p], ctypes.c_int64),
        "gguf_get_tensor_name": ([ctypes.c_void_p, ctypes.c_int64], ctypes.c_char_p),
        "gguf_get_tensor_offset": ([ctypes.c_void_p, ctypes.c_int64], ctypes.c_size_t),
    }
    for name, (arguments, result) in declarations.items():
        getattr(ggml, name).argtypes, getattr(ggml, name).restype = arguments, result
    opened = ggml.gguf_init_from_file(str(path).encode(), GGUFInitParams(True, None))
    if not opened:
        return None
    count = ggml.gguf_get_n_tensors(opened)
    found = [
        (ggml.gguf_get_tensor_name(opened, i).decode(errors="replace"), ggml.gguf_get_tensor_offset(opened, i))
        for i in range(count)
    ]
    ggml.gguf_free(opened)
    return found


def test_accepted_headers_are_also_accepted_by_ggml(good: Path, tmp_path: Path) -> None:
    """Random bytes of a valid header are changed: the only error is InputError, and ggml accepts what we accept."""
    whole = good.read_bytes()
    end = read_header(good).data_offset
    random.seed(0)
    accepted = 0
    path = tmp_path / "damaged.gguf"
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(random.randint(1, 2)):
            damaged[random.randrange(end)] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            header = read_header(path)
        except InputError:
            continue
        accepted += 1
        assert ggml_tensors(path) == [(t.name, t.offset) for t in header.tensors], bytes(damaged[:end])
    assert accepted > 100
