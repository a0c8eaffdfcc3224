"""Untrusted files with format-aware damage give a correct result, or a one-line error that names the file.

No other exception, no more than two seconds and 200 MB for a case, and nothing that ends the process: what the readers
accept goes through llama.cpp's dry run in a child. Seeded, so that a failure comes again.
"""

import copy
import json
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from checkpoints import make_tokenizer
from test_gguf_container import ggml_tensors, tensor, text

from converters.checkpoint import Checkpoint, read_safetensors_header
from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.export import export
from converters.imatrix import ImportanceMatrix, ImportanceStatistics
from converters.llamacpp import container
from converters.llamacpp.bindings import TYPES_BY_ID
from converters.llamacpp.container import (
    Field,
    ValueType,
    data_bytes,
    encode_header,
    float32,
    number,
    numbers,
    string,
    uint32,
)
from converters.llamacpp.pretokenizers import NORMALIZER_KEY
from converters.llamacpp.reader import read_header
from converters.resolver import open_source

ROOT = Path(__file__).parents[2]
SECONDS, BYTES = 2.0, 200 << 20  # of one case
NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 7, -1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400, 0.0, 1.0, 0.5, 1e300,
    float("nan"), float("inf"), True, None, "2", "", [], [1], {}, {"a": 1},
)  # fmt: skip
"""Values that a malformed file may have in place of a number."""


def status(key: str) -> int:
    """A value in bytes from /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Require that no case of a test takes more than BYTES in addition to the process's memory before."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        yield
        return
    peak.write_text("5")  # resets the peak of resident memory
    before = status("VmRSS")
    yield
    assert status("VmHWM") - before < BYTES


def rejection(call: Callable[[], object], *names: Path | str) -> str | None:
    """The message of an InputError, or None for a result. It must be one short line that contains one of `names`."""
    start = time.process_time()
    try:
        call()
        message = None
    except InputError as error:
        message = str(error)
    assert time.process_time() - start < SECONDS
    if message is not None:
        assert message.isprintable()
        assert len(message) < 2000
        assert any(str(name) in message for name in names), message
    return message


PLAN = """
import json, sys
from pathlib import Path
from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.plan import plan_export
from converters.resolver import open_source
for line in sys.stdin:
    path = Path(json.loads(line))
    try:
        source = ConfigSource.open(path) if path.suffix == ".json" else open_source(path)
        plan = plan_export(source, ["Q4_K_M"])["Q4_K_M"]
        assert [t.name for t in plan.tensors] == [t.name for t in source.tensors], path
        assert [t.shape for t in plan.tensors] == [t.shape for t in source.tensors], path
        message = None
    except InputError as error:
        message = str(error)
    print(json.dumps([str(path), message]), flush=True)
"""


def planned(paths: Sequence[Path]) -> dict[Path, str | None]:
    """The result of llama.cpp's dry run for each path, in a child process that must survive: None or a message."""
    lines = "".join(json.dumps(str(path)) + "\n" for path in paths)
    done = subprocess.run([sys.executable, "-c", PLAN], cwd=ROOT, input=lines, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{paths[len(answers)]}: {done.stderr[-2000:]}"
    assert [Path(path) for path, _ in answers] == list(paths)
    for path, message in answers:
        assert message is None or (message.isprintable() and path in message), message
    return {Path(path): message for path, message in answers}


# ---- safetensors


class TestSafetensors:
    """Every accepted file is also accepted by the safetensors library, with the same content."""

    TENSORS = {  # noqa: RUF012
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b.bias": np.arange(4, dtype=np.float16),
        "empty": np.zeros((0, 3), np.float32),
        "none": np.array(7, np.float32),
    }

    @pytest.fixture
    def good(self) -> bytes:
        return safetensors.numpy.save(self.TENSORS)

    @pytest.fixture
    def header(self, good: bytes) -> dict[str, Any]:
        return json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])

    def check(self, path: Path, content: bytes) -> bool:
        """Whether the content is accepted."""
        path.write_bytes(content)
        found: dict[str, Any] = {}
        if rejection(lambda: found.update(read_safetensors_header(path)), path) is not None:
            return False
        theirs = dict(safetensors.deserialize(content))
        assert set(theirs) == set(found)
        for name, entry in found.items():
            assert (entry.dtype, list(entry.shape)) == (theirs[name]["dtype"], theirs[name]["shape"])
            assert content[entry.offset : entry.offset + entry.nbytes] == bytes(theirs[name]["data"])
        return True

    def rewritten(self, good: bytes, header: object) -> bytes:
        old = int.from_bytes(good[:8], "little")
        encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(encoded)) + encoded + good[8 + old :]

    def test_every_flipped_bit_and_every_truncation_is_read_correctly_or_rejected(
        self, good: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.safetensors"
        assert self.check(path, good)
        assert not any(self.check(path, good[:length]) for length in range(len(good)))
        assert not self.check(path, good + b"\0")
        header, accepted = 8 + int.from_bytes(good[:8], "little"), 0
        for bit in range(8 * header):
            damaged = bytearray(good)
            damaged[bit // 8] ^= 1 << bit % 8
            accepted += self.check(path, bytes(damaged))
        assert 0 < accepted < 4 * header  # names may have other letters

    def test_every_changed_number_is_read_correctly_or_rejected(
        self, good: bytes, header: dict[str, Any], tmp_path: Path
    ) -> None:
        places = [(n, "dtype") for n in header] + [(n, "shape") for n in header] + [(n, "data_offsets") for n in header]
        places += [(n, "shape", i) for n in header for i in range(len(header[n]["shape"]))]
        places += [(n, "data_offsets", i) for n in header for i in (0, 1)]
        accepted = 0
        for place in places:
            for value in (*NUMBERS, [2**32, 2**32], [2**63, 2], [1] * 100, [0, 2**70], "F8_E4M3", "F64", "BOOL", "f32"):
                damaged = copy.deepcopy(header)
                inner = damaged[place[0]]
                for key in place[1:-1]:
                    inner = inner[key]
                inner[place[-1]] = value
                accepted += self.check(tmp_path / "x.safetensors", self.rewritten(good, damaged))
        assert accepted < 60  # other shapes of the empty one, and what had the value before

    def test_swapped_offsets_are_read_correctly_or_rejected(
        self, good: bytes, header: dict[str, Any], tmp_path: Path
    ) -> None:
        ends = sorted({end for entry in header.values() for end in entry["data_offsets"]} | {1, 5, 10**6})
        for name, entry in header.items():
            for begin in ends:
                for end in ends:
                    damaged = header | {name: entry | {"data_offsets": [begin, end]}}
                    same = [begin, end] == entry["data_offsets"] or (begin == end and name == "empty" and begin in ends)
                    assert self.check(tmp_path / "x.safetensors", self.rewritten(good, damaged)) <= same
        swapped = [entry["data_offsets"] for entry in header.values()][::-1]
        both = {name: entry | {"data_offsets": swapped[i]} for i, (name, entry) in enumerate(header.items())}
        assert not self.check(tmp_path / "x.safetensors", self.rewritten(good, both))

    @pytest.mark.parametrize(
        ("header", "words"),
        [
            (b" " * 100_000, "JSON"),
            (b"\0" * 1000, "JSON"),
            (b"\xff\xfe{}", "JSON"),
            (b"\xef\xbb\xbf{}", "JSON"),
            ("{}".encode("utf-16"), "JSON"),
            (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "JSON"),
            (b"[" * 10_000 + b"]" * 10_000, "JSON"),
            (b'{"a":NaN}', "NaN is not a number"),
            (b'{"a":' + b"9" * 5000 + b"}", "JSON"),
            (b'{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}', "occurs twice"),
            (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":0}', "occurs twice"),
            (json.dumps({"n" * 10**6: 1}).encode(), "not a JSON object"),
            (json.dumps({"\x1b[31m\n": 1}).encode(), r"\\x1b\[31m\\n"),
        ],
    )
    def test_invalid_headers_are_rejected(self, tmp_path: Path, header: bytes, words: str) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        message = rejection(lambda: read_safetensors_header(path), path)
        assert message is not None
        with pytest.raises(InputError, match=words):
            read_safetensors_header(path)

    @pytest.mark.parametrize("length", [0, 1, 2**31, 100_000_001, 2**40, 2**63 - 1, 2**64 - 1])
    def test_impossible_header_lengths_are_rejected(self, good: bytes, tmp_path: Path, length: int) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", length) + good[8:])
        with path.open("r+b") as file:
            file.truncate(1 << 38)  # sparse, so that it is the bound that is met and not the file's end
        assert rejection(lambda: read_safetensors_header(path), path)

    def test_json_files_of_gigabytes_are_not_read(self, tiny: Path, tmp_path: Path) -> None:
        directory = Path(shutil.copytree(tiny, tmp_path / "model"))
        for name in ("config.json", "model.safetensors.index.json"):
            with (directory / name).open("ab") as file:
                file.truncate(8 << 30)
            message = rejection(lambda: open_source(directory), directory / name)
            assert message is not None
            assert "more than 100000000 bytes" in message
            (directory / name).unlink()
            shutil.copy(tiny / "config.json", directory)


INDEXES: dict[str, Any] = {
    "no map": 5,
    "a list": ["model.safetensors"],
    "a text": "model.safetensors",
    "nothing": None,
    "no names": {"model.norm.weight": ["model.safetensors"]},
    "a number": {"model.norm.weight": 3},
    "above": {"model.norm.weight": "../model.safetensors"},
    "far above": {"model.norm.weight": "../../x.safetensors"},
    "absolute": {"model.norm.weight": "/etc/x.safetensors"},
    "below": {"model.norm.weight": "sub/x.safetensors"},
    "a directory": {"model.norm.weight": "directory.safetensors"},
    "empty": {"model.norm.weight": ""},
    "no file": {"model.norm.weight": ".safetensors"},
    "a zero inside": {"model.norm.weight": "a\0b.safetensors"},
    "half of a pair": {"model.norm.weight": "\ud800.safetensors"},
    "several lines": {"model.norm.weight": "a\nb\x1b[2J.safetensors"},
    "long": {"model.norm.weight": "x" * 5000 + ".safetensors"},
    "a megabyte": {"model.norm.weight": "x" * 10**6 + ".safetensors"},
    "too few": {"model.norm.weight": "model.safetensors"},
    "too many": {f"model.layers.{i}.weight": "model.safetensors" for i in range(1000)},
    "many shards": {f"model.layers.{i}.weight": f"model-{i}.safetensors" for i in range(10_000)},
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_wrong_index_is_rejected(tiny: Path, tmp_path: Path, case: str) -> None:
    directory = Path(shutil.copytree(tiny, tmp_path / "model"))
    shutil.copy(tiny / "model.safetensors", tmp_path)
    (directory / "directory.safetensors").mkdir()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": INDEXES[case]}))
    assert rejection(lambda: open_source(directory), directory)


# ---- GGUF


def atoms(data: bytes) -> list[tuple[int, int]]:
    """Begin and end of every element of a GGUF header, by the description of the format (ggml's docs/gguf.md)."""
    found: list[tuple[int, int]] = []

    def take(size: int) -> int:
        start = found[-1][1] if found else 0
        found.append((start, start + size))
        return int.from_bytes(data[start : start + size], "little")

    def take_text() -> None:
        take(take(8))

    def take_value(kind: int) -> None:
        if kind == 8:
            take_text()
        elif kind == 9:
            item, count = take(4), take(8)
            for _ in range(count):
                take_value(item)
        else:
            take({0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4))

    take(4), take(4)
    tensors, fields = take(8), take(8)
    for _ in range(fields):
        take_text()
        take_value(take(4))
    for _ in range(tensors):
        take_text()
        for _ in range(take(4)):
            take(8)
        take(4), take(8)
    return found


WORDS = (0, 1, 3, 9, 13, 33, 99, 2**31, 2**32 - 1)
LONG_WORDS = (*WORDS, 2**61, 2**63 - 1, 2**63, 2**64 - 1)


def damaged(data: bytes, seed: int, swaps: int) -> Iterator[bytes]:
    """Variants of the header: elements replaced by other values, doubled, removed or swapped, and flipped bits."""
    parts = atoms(data)
    for start, stop in parts:
        width = stop - start
        values = {4: WORDS, 8: LONG_WORDS}.get(width, ())
        for value in values:
            yield data[:start] + value.to_bytes(width, "little") + data[stop:]
        if width not in (0, 4, 8):
            yield from (data[:start] + fill * width + data[stop:] for fill in (b"\0", b"\xff"))
        yield data[:start] + data[stop:]
        yield data[:stop] + data[start:]
    rng = random.Random(seed)
    header = parts[-1][1]
    for _ in range(swaps):
        (a, b), (c, d) = sorted(rng.sample(parts, 2))
        yield data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
        flipped = bytearray(data)
        flipped[rng.randrange(header)] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with every type of value and tensors of several types, which llama.cpp's reader accepts."""
    fields = {
        "general.architecture": string("qwen3"),
        "general.alignment": uint32(64),
        **{
            f"a.{kind.name}": number(kind, 1)
            for kind in ValueType
            if kind not in (ValueType.STRING, ValueType.ARRAY, ValueType.FLOAT32, ValueType.FLOAT64, ValueType.BOOL)
        },
        "a.float": float32(0.5),
        "a.bool": container.boolean(True),
        "a.texts": container.strings(["", "two", "blåbær"]),
        "a.numbers": numbers(ValueType.INT16, [1, -2, 3]),
    }
    types = TYPES_BY_ID
    shapes = [("first.weight", (3, 4), types[0]), ("second.weight", (2, 3, 64), types[1]), ("third", (2, 32), types[8])]
    infos, offset = [], 0
    for name, shape, type_ in shapes:
        infos.append(container.TensorInfo(name, shape, type_, offset))
        offset += container.padded(infos[-1].nbytes, 64)
    header = encode_header(fields, infos)
    return header.ljust(container.padded(len(header), 64), b"\0") + bytes(offset)


def test_damaged_gguf_headers_are_read_like_ggml_or_rejected(gguf_file: bytes, tmp_path: Path) -> None:
    """Every accepted file is also accepted by ggml's reader, with the same tensors at the same offsets."""
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_file)
    assert ggml_tensors(path) == [(t.name, t.offset) for t in read_header(path).tensors]
    accepted = rejected = 0
    for content in damaged(gguf_file, 1, 400):
        path.write_bytes(content)
        if rejection(lambda: read_header(path), path) is None:
            accepted += 1
            header = read_header(path)
            assert all(header.data_offset + t.offset + t.nbytes <= len(content) for t in header.tensors)
            assert ggml_tensors(path) == [(t.name, t.offset) for t in header.tensors]
        else:
            rejected += 1
    assert accepted > 100
    assert rejected > 1000


def test_gguf_files_truncated_at_every_boundary_are_rejected(gguf_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    seams = sorted({place for pair in atoms(gguf_file) for place in pair})
    for seam in seams:
        for length in {max(0, seam - 1), seam, seam + 1}:
            path.write_bytes(gguf_file[:length])
            assert rejection(lambda: read_header(path), path)


HEAD = b"GGUF" + struct.pack("<I", 3)
ONE_FIELD = HEAD + struct.pack("<QQ", 0, 1)
SPARSE: dict[str, tuple[bytes, str | None]] = {
    "a key of megabytes": (ONE_FIELD + struct.pack("<Q", 60 << 20), "65535 is the limit"),
    "a tensor's name of megabytes": (HEAD + struct.pack("<QQ", 1, 0) + struct.pack("<Q", 60 << 20), "63 is the limit"),
    "a text of gigabytes": (ONE_FIELD + text(b"k") + struct.pack("<IQ", 8, 3 << 30), "more than 64 MiB"),
    "numbers by the gigabyte": (ONE_FIELD + text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 30), "more than 64 MiB"),
    "empty texts by the million": (ONE_FIELD + text(b"k") + struct.pack("<IIQ", 9, 8, 7 << 20), "strings, more than"),
    "texts, list upon list": (
        HEAD + struct.pack("<QQ", 0, 2) + text(b"k") + struct.pack("<IIQ", 9, 8, 0)
        + text(b"l") + struct.pack("<IIQ", 9, 8, 3 << 20),
        "strings, more than",
    ),
    "an alignment that is a long list": (
        ONE_FIELD + text(b"general.alignment") + struct.pack("<IIQ", 9, 7, 60 << 20), "general.alignment is ARRAY",
    ),
    "a tensor of a terabyte": (HEAD + struct.pack("<QQ", 1, 0) + tensor(dims=(2**40,)), "truncated"),
    "tensors of all there is": (
        HEAD + struct.pack("<QQ", 2, 0) + tensor(dims=(2**31, 2**24)) + tensor(b"u", offset=2**57), "truncated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPARSE)
def test_large_sparse_gguf_files_are_rejected_in_bounded_time_and_memory(tmp_path: Path, case: str) -> None:
    content, words = SPARSE[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.truncate(8 << 30)
    message = rejection(lambda: read_header(path), path)
    assert message is not None
    assert words is None or words in message


VALUES: tuple[Field | None, ...] = (
    None,
    *(uint32(value) for value in (0, 7, 513, 2**32 - 1)),
    number(ValueType.INT32, -1),
    number(ValueType.UINT64, 2**63),
    float32(float("nan")),
    string("x\0y\n"),
    numbers(ValueType.UINT32, [2**32 - 1] * 4),
)


def other_models(good: Path, count: int) -> Iterator[tuple[dict[str, Field], tuple[container.TensorInfo, ...]]]:
    """Variants of a model: a key is missing or has another value or type; a tensor is missing, renamed, transposed."""
    header = read_header(good)
    variants: list[tuple[dict[str, Field], tuple[container.TensorInfo, ...]]] = [
        ({name: field for name, field in {**header.metadata, key: value}.items() if field is not None}, header.tensors)
        for key in header.metadata
        if not key.startswith("tokenizer.") or key.endswith((".tokens", ".model"))
        for value in VALUES
    ]
    for i, chosen in enumerate(header.tensors):
        others = [(t.name, t.shape, t.type) for t in header.tensors]
        for instead in (
            [],
            [("blk.999.x.weight", chosen.shape, chosen.type)],
            [(chosen.name, tuple(reversed(chosen.shape)), chosen.type)],
        ):
            laid_out = container.lay_out([*others[:i], *instead, *others[i + 1 :]])
            variants.append((dict(header.metadata), laid_out))
    yield from random.Random(2).sample(variants, count)


def test_changed_gguf_models_are_planned_or_rejected(models: dict[str, Path], tmp_path: Path) -> None:
    """llama.cpp plans or rejects every opened model, and the planning process survives."""
    paths = []
    for family in ("qwen35moe", "qwen3vl"):
        good = tmp_path / f"{family}.gguf"
        export(open_source(models[family]), {"BF16": good}, threads=1)
        for i, (metadata, tensors) in enumerate(other_models(good, 120)):
            encoded = encode_header(metadata, tensors)
            path = tmp_path / f"{family}-{i}.gguf"
            with path.open("wb") as file:
                file.write(encoded)
                file.truncate(len(encoded) + data_bytes(tensors))
            if rejection(lambda path=path: open_source(path).metadata, path) is None:
                paths.append(path)
    answers = planned(paths)
    assert 20 < sum(message is None for message in answers.values()) < len(paths)


def test_changed_importance_matrices_are_read_or_rejected(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = {
        name: ImportanceStatistics(rng.uniform(0, 9, (count, 32)).astype(np.float32), np.full(count, 8, np.float32))
        for name, count in (("blk.0.attn_q.weight", 1), ("blk.0.ffn_up_exps.weight", 3))
    }
    good = tmp_path / "good.gguf"
    ImportanceMatrix(whole, ("text.txt",), 1, 512).write(good)
    path = tmp_path / "x.gguf"
    accepted = 0
    for content in damaged(good.read_bytes(), 3, 100):
        path.write_bytes(content)
        found: list[ImportanceMatrix] = []
        if rejection(lambda found=found: found.append(ImportanceMatrix.read(path)), path) is None:
            accepted += 1
            for entry in found[0].statistics.values():
                assert entry.weights.shape == (len(entry.counts), entry.sums.shape[-1])
                assert np.isfinite(entry.weights).all()
                assert (entry.weights >= 0).all()
    assert accepted > 50
    with good.open("r+b") as file:
        file.truncate(1 << 38)
    large = {"x.in_sum2": (1 << 12, 1 << 20), "x.counts": (1 << 12, 1)}
    tensors = container.lay_out((name, shape, TYPES_BY_ID[0]) for name, shape in large.items())
    path.write_bytes(encode_header(read_header(good).metadata, tensors))
    with path.open("r+b") as file:
        file.truncate(1 << 38)
    message = rejection(lambda: ImportanceMatrix.read(path), path)
    assert message is not None
    assert "bytes of statistics" in message


# ---- config.json and tokenizer.json


@pytest.fixture(scope="module")
def models(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every family, with a tokenizer."""
    directory = tmp_path_factory.mktemp("families")
    found = {"qwen3": Path(shutil.copytree(tiny, directory / "qwen3"))}
    for i, family in enumerate(families.FAMILIES):
        found[family] = families.make(family, directory / str(i))
        make_tokenizer(found[family])
    return found


SETTINGS = (
    "quantization_config", "num_experts", "num_local_experts", "mtp_num_hidden_layers", "moe_intermediate_size",
    "shared_expert_intermediate_size", "full_attention_interval", "layer_types", "rope_scaling", "rope_theta",
    "partial_rotary_factor", "torch_dtype", "text_config", "decoder_sparse_step", "mlp_only_layers", "head_dim",
)  # fmt: skip
INSTEAD = (
    *NUMBERS, 3, 512, 513, 1024, 65_536, 10**9, -2, 1e-9, "4", "a\nb\x1b[2J", "\ud800", "x" * 10**6, [1] * 10**5,
    [0, 0, 0, 5], [10**9] * 4, ["full_attention"], ["x"] * 4, "awq", {"quant_method": "a\nb"},
    {"quant_method": "fp8", "weight_block_size": [1, 10**400]}, {"rope_type": "yarn"}, {"type": "yarn", "factor": 2.0},
    {"rope_type": "linear", "factor": "x"}, {"rope_type": []}, {"mrope_section": 5}, {"mrope_section": [0, 0, 0]},
    {"mrope_section": "abc"}, {"partial_rotary_factor": 1e-9}, {"deepstack_visual_indexes": 5},
)  # fmt: skip
REMOVED = object()


def keys(config: dict[str, Any], inside: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*inside, key)
        if isinstance(value, dict):
            yield from keys(value, (*inside, key))


def changed(content: dict[str, Any], place: Sequence[Any], value: object) -> dict[str, Any]:
    result = copy.deepcopy(content)
    inner: Any = result
    for key in place[:-1]:
        inner = inner[key]
    if value is REMOVED:
        inner.pop(place[-1], None)
    else:
        inner[place[-1]] = value
    return result


CONFIGS_EACH = 90


def accepted_configs(directory: Path, out: Path, seed: str) -> Iterator[Path]:
    """Changes of a model's config, in files of their own, that make a config that can be planned.

    Of the checkpoint none but its own tensors may come, whatever the config says.
    """
    file = directory / "config.json"
    original = file.read_text()
    config = json.loads(original)
    known = open_source(directory)
    tensors = known.tensors
    root = ("text_config",) if "text_config" in config else ()
    rope = (*root, "rope_parameters")
    places = [*keys(config), *((*root, key) for key in SETTINGS)]
    places += [
        (*rope, key) for key in ("factor", "mrope_section", "beta_fast", "type", "original_max_position_embeddings")
    ]
    every = [(place, value) for place in places for value in (*INSTEAD, REMOVED) if "vision_config" not in place[:-1]]
    try:
        for i, (place, value) in enumerate(random.Random(seed).sample(every, CONFIGS_EACH)):
            text_ = json.dumps(changed(config, place, value))
            file.write_text(text_)
            found: list[Any] = []
            if rejection(lambda found=found: found.append(open_source(directory)), directory) is None:
                assert found[0].tensors == tensors, (place, str(value)[:80])
                rejection(lambda found=found: found[0].metadata, directory)
            bare = out / f"{seed}-{i}.json"
            bare.write_text(text_)
            if rejection(lambda bare=bare: ConfigSource.open(bare).metadata, bare) is None:
                yield bare
    finally:
        file.write_text(original)


def test_changed_configs_are_planned_or_rejected(models: dict[str, Path], tmp_path: Path) -> None:
    """llama.cpp plans or rejects every accepted config."""
    some = []
    for family, directory in models.items():
        accepted = list(accepted_configs(directory, tmp_path, family))
        assert 0 < len(accepted) < CONFIGS_EACH
        some += accepted[:12]
    assert sum(message is None for message in planned(some).values()) > len(some) // 2


FOUND: dict[str, tuple[str, dict[str, Any], str]] = {
    # Found by fuzzing: each caused another exception, an endless loop, a lack of memory, or an error in llama.cpp.
    "no feed-forward": ("qwen3", {"intermediate_size": None}, "intermediate_size is missing or 0"),
    "no experts' feed-forward": ("qwen35moe", {"moe_intermediate_size": 0}, "moe_intermediate_size"),
    "no shared expert": ("qwen35moe", {"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size"),
    "no number of experts": ("qwen3vlmoe", {"num_experts": REMOVED, "num_local_experts": REMOVED}, "num_experts"),
    "value heads by the billion": ("qwen35", {"linear_num_value_heads": 10**9}, "linear_num_value_heads"),
    "key heads by the billion": ("qwen3next", {"linear_num_key_heads": 2**30}, "linear_num_key_heads"),
    "heads of a length that overflows": ("qwen35", {"linear_key_head_dim": 2**30}, "linear_key_head_dim"),
    "billions of layers": ("qwen35", {"num_hidden_layers": 10**9, "layer_types": None}, "num_hidden_layers"),
    "a section that is none": ("qwen3vl", {"rope_parameters": {"mrope_section": 5}}, "mrope_section is 5"),
    "sections of nothing": ("qwen2vl", {"rope_parameters": {"mrope_section": [0, 0, 0]}}, "mrope_section"),
    "no sections": ("qwen3vlmoe", {"rope_parameters": {"rope_theta": 1e4}}, "mrope_section is missing"),
    "nothing rotated": ("qwen35", {"rope_parameters": {"partial_rotary_factor": 1e-9}}, "partial_rotary_factor"),
    "lines in a name": ("qwen3", {"quantization_config": {"quant_method": "a\nb"}}, r"a\\nb"),
    "megabytes in a name": (
        "qwen3",
        {"hidden_act": "x" * 10**6},
        r"hidden_act is 'xxx.* \.\.\. .*llama.cpp supports",
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_configs_found_by_fuzzing_are_rejected(models: dict[str, Path], tmp_path: Path, case: str) -> None:
    family, changes, words = FOUND[case]
    directory = tmp_path / "model"
    shutil.copytree(models[family], directory)
    config = json.loads((directory / "config.json").read_text())
    inner = config.get("text_config", config)
    for key, value in changes.items():
        inner.pop(key, None)
        if value is not REMOVED:
            inner[key] = value
    (directory / "config.json").write_text(json.dumps(config))
    for call in (lambda: open_source(directory), lambda: ConfigSource.open(directory)):
        assert rejection(call, directory / "config.json", directory)
        with pytest.raises(InputError, match=words):
            call()


def test_missing_layers_are_rejected_before_their_tensors_are_described(tiny: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny, tmp_path / "model"))
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 512}))
    message = rejection(lambda: open_source(directory), directory)
    assert message is not None
    assert "every tensor of layer 2 is missing; num_hidden_layers in config.json is 512" in message


def test_a_model_with_too_many_weights_is_rejected(models: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((models["qwen3moe"] / "config.json").read_text())
    for changes, words in (
        ({"hidden_size": 2**31 - 2, "num_experts": 256}, "weights; no supported model has as many"),
        ({"num_experts": 1024}, "1024 experts in 512 layers"),
    ):
        file = tmp_path / "huge.json"
        file.write_text(json.dumps(config | changes | {"num_hidden_layers": 512}))
        message = rejection(lambda file=file: ConfigSource.open(file), file)
        assert message is not None
        assert words in message


@pytest.mark.parametrize("layer", ["999999999", "9" * 5000, "٣", "511"])
def test_billions_of_mtp_layers_are_rejected(models: dict[str, Path], tmp_path: Path, layer: str) -> None:
    directory = Path(shutil.copytree(models["qwen35"], tmp_path / "model"))
    families.rewrite(
        directory, lambda tensors: tensors | {f"mtp.layers.{layer}.x": tensors["lm_head.weight"][:1, :1].clone()}
    )
    assert rejection(lambda: open_source(directory), directory)


def json_places(content: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of values in a JSON document; for long lists and objects only the first three entries."""
    entries: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(content, dict):
        entries = iter(list(content.items())[: 12 if not inside else 8])
    elif isinstance(content, list):
        entries = iter(list(enumerate(content))[:3])
    for key, value in entries:
        yield (*inside, key)
        yield from json_places(value, (*inside, key))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_changed_tokenizers_are_read_or_rejected(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    """A change outside of tokens may change only the normalizer; otherwise a one-line error names the file."""
    directory = Path(shutil.copytree(models["qwen3"], tmp_path / "model"))
    content = json.loads((directory / name).read_text())
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    other = {"tokenizer_config.json": "generation_config.json", "generation_config.json": "tokenizer_config.json"}
    if name in other:
        (directory / other[name]).unlink()  # so that no other file names the eos token
    content.setdefault("post_processor", {"type": "Sequence", "processors": [{"type": "ByteLevel", "single": []}]})
    content.setdefault("chat_template", "{{ x }}")
    (directory / name).write_text(json.dumps(content))
    known = {key: field for key, field in open_source(directory).metadata.items() if key != NORMALIZER_KEY}
    every = [
        (place, value)
        for place in json_places(content)
        for value in (
            None,
            0,
            -1,
            10**9,
            1e300,
            "",
            "\ud800",
            "x\0\n",
            [],
            [1],
            [[]],
            {},
            {"type": []},
            {"a": [1]},
            REMOVED,
        )
    ]
    rejected = 0
    for place, value in random.Random(name).sample(every, min(len(every), 300)):
        if value is REMOVED and not isinstance(place[-1], str):
            continue
        (directory / name).write_text(json.dumps(changed(content, place, value)))
        found: dict[str, Field] = {}
        if rejection(lambda found=found: found.update(open_source(directory).metadata), directory) is not None:
            rejected += 1
        elif name == "tokenizer.json" and place[0] not in ("model", "added_tokens"):
            found.pop(NORMALIZER_KEY)
            assert found == known, place
    assert rejected > (50 if name == "tokenizer.json" else 2)


def test_a_checkpoint_with_a_changed_byte_is_opened_or_rejected(models: dict[str, Path], tmp_path: Path) -> None:
    """Random bytes of the files are changed. An opened checkpoint has the model's names, shapes and dtypes."""
    directory = Path(shutil.copytree(models["qwen35moe"], tmp_path / "model"))
    tensors = open_source(directory).tensors
    rng, rejected = random.Random(4), 0
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        whole = (directory / name).read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little") if name.endswith("tensors") else len(whole)
        with (directory / name).open("r+b") as file:
            for _ in range(60):
                place, value = rng.randrange(header), rng.choice((0, 10, 34, 44, 48, 57, 91, 93, 123, 125, 255))
                file.seek(place)
                file.write(bytes([value]))
                file.flush()
                found: list[Any] = []

                def look(found: list[Any] = found) -> None:
                    found.append(open_source(directory))
                    _ = found[0].metadata
                    with Checkpoint.open(directory) as checkpoint:
                        checkpoint.read_rows("model.norm.weight", 0, 1)

                rejected += rejection(look, directory) is not None
                assert not found or found[0].tensors == tensors
                file.seek(place)
                file.write(whole[place : place + 1])
                file.flush()
    assert rejected > 60
