"""The safetensors reader gives the same content as the safetensors library, and rejects malformed files."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from converters.checkpoint import Checkpoint, read_safetensors_header
from converters.errors import InputError
from converters.resolver import open_source


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_rows_equal_those_of_the_safetensors_library(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "a": torch.randn(7, 5, generator=generator),
        "b": torch.randn(3, 4, 6, generator=generator).to(torch.bfloat16),
        "c": torch.randn(9, generator=generator).to(torch.float16),
    }
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with Checkpoint.open(tmp_path) as checkpoint:
        assert np.array_equal(checkpoint.read_rows("a", 2, 6), tensors["a"][2:6].numpy())
        assert np.array_equal(checkpoint.read_rows("b", 0, 12), tensors["b"].view(torch.uint16).reshape(12, 6).numpy())
        assert np.array_equal(checkpoint.read_rows("c", 0, 1), tensors["c"][None].numpy())
        assert checkpoint.read_rows("a", 3, 3).shape == (0, 5)


@pytest.mark.parametrize(
    ("header", "data", "length", "words"),
    [
        ({}, b"", 2**63, "truncated"),
        ({}, b"", 2**64 - 1, "truncated"),
        (b"", b"", None, "has no header"),
        (b"{" * 50_000, b"", None, "JSON"),
        (b'{"a"', b"", None, "JSON"),
        ([1], b"", None, "not a JSON object"),
        ({"a": entry()}, b"1234567", None, "truncated"),
        ({"a": entry()}, b"123456789", None, "belong to no tensor"),
        ({"a": entry(), "b": entry()}, b"12345678", None, "begins at byte"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, b"x" * 12, None, "begins at byte"),
        ({"a": entry(), "b": entry(offsets=(16, 24))}, b"x" * 24, None, "begins at byte"),
        ({"a": entry(shape=(3,))}, b"12345678", None, "needs 12"),
        ({"a": entry(shape=(2**62, 4), offsets=(0, 2**66))}, b"", None, "truncated"),
        ({"a": entry(shape=(2**63,), offsets=(0, 0))}, b"", None, "needs"),
        ({"a": entry(shape=(-2,), offsets=(8, 0))}, b"12345678", None, "shape"),
        ({"a": entry(shape=(True, 2))}, b"12345678", None, "shape"),
        ({"a": entry(shape="2")}, b"12345678", None, "shape"),
        ({"a": entry(shape=[1] * 5000)}, b"12345678", None, "shape"),
        ({"a": entry(offsets=(8, 0))}, b"12345678", None, "-8 bytes"),
        ({"a": entry(offsets=(0, 8, 8))}, b"12345678", None, "data_offsets"),
        ({"a": entry(offsets=(0.0, 8.0))}, b"12345678", None, "data_offsets"),
        ({"a": entry(dtype="F7")}, b"12345678", None, "dtype"),
        ({"a": entry(dtype=["F32"])}, b"12345678", None, "dtype"),
        ({"a": 3}, b"12345678", None, "not a JSON object"),
    ],
)
def test_malformed_files_are_rejected(
    tmp_path: Path, header: object, data: bytes, length: int | None, words: str
) -> None:
    path = write(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(InputError, match=words) as error:
        read_safetensors_header(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_header_of_gigabytes_is_rejected_without_reading_it(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {}, length=3 << 30)
    with path.open("r+b") as file:
        file.truncate(4 << 30)  # sparse
    with pytest.raises(InputError, match="limit"):
        read_safetensors_header(path)


def test_a_million_tensors_are_rejected(tmp_path: Path) -> None:
    tensors = ",".join(f'"{i}":0' for i in range(1_000_000))
    with pytest.raises(InputError, match="1000000 tensors"):
        read_safetensors_header(write(tmp_path / "model.safetensors", f"{{{tensors}}}".encode()))


def test_damaged_files_are_rejected_or_read_as_by_the_library(tmp_path: Path) -> None:
    """Random bytes of a valid file are changed. The library accepts every accepted file with the same tensors."""
    good = safetensors.torch.save({"some.name": torch.ones(2, 3), "another.name": torch.zeros(4, dtype=torch.bfloat16)})
    random.seed(0)
    accepted = 0
    for _ in range(1500):
        damaged = bytearray(good)
        for _ in range(random.randint(1, 2)):
            damaged[random.randrange(len(good) - 32)] = random.randrange(256)
        path = tmp_path / "model.safetensors"
        path.write_bytes(damaged)
        try:
            ours = read_safetensors_header(path)
        except InputError:
            continue
        accepted += 1
        with safetensors.safe_open(path, "np") as theirs:
            assert set(theirs.keys()) == set(ours)
            for name in theirs.keys():  # noqa: SIM118  (no mapping)
                assert tuple(theirs.get_slice(name).get_shape()) == ours[name].shape
    assert accepted > 20


def test_a_truncated_checkpoint_is_rejected(altered: Callable[..., Path]) -> None:
    directory = altered()
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"model\.safetensors: is truncated"):
        open_source(directory)


class TestShards:
    @pytest.fixture
    def sharded(self, checkpoint: Callable[..., Path]) -> Path:
        return checkpoint(shard="700KB")

    def test_a_missing_shard_is_named(self, sharded: Path) -> None:
        lost = sorted(sharded.glob("*.safetensors"))[1]
        lost.unlink()
        with pytest.raises(InputError, match=f"{lost.name} is missing"):
            open_source(sharded)

    def test_a_missing_shard_is_named_without_an_index(self, sharded: Path) -> None:
        (sharded / "model.safetensors.index.json").unlink()
        open_source(sharded)
        lost = sorted(sharded.glob("*.safetensors"))[-1]
        lost.unlink()
        with pytest.raises(InputError, match=f"{lost.name} is missing"):
            open_source(sharded)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda m: m.update({"model.norm.weight": "../../etc/passwd"}), "not the file name"),
            (lambda m: m.update({"model.norm.weight": "/etc/passwd.safetensors"}), "not the file name"),
            (lambda m: m.update({"model.norm.weight": 7}), "not the file name"),
            (lambda m: m.update({"ghost": sorted(m.values())[0]}), "'ghost' is missing"),
            (lambda m: m.pop("model.norm.weight"), "lists tensor 'model.norm.weight' in no shard"),
            (lambda m: m.clear(), "weight_map"),
        ],
    )
    def test_an_index_that_contradicts_the_shards_is_rejected(
        self, sharded: Path, change: Callable[[dict[str, object]], object], words: str
    ) -> None:
        index = sharded / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        change(content["weight_map"])
        index.write_text(json.dumps(content))
        with pytest.raises(InputError, match=words):
            open_source(sharded)

    def test_a_tensor_in_two_shards_is_rejected(self, sharded: Path) -> None:
        (sharded / "model.safetensors.index.json").unlink()
        first = sorted(sharded.glob("*.safetensors"))[0]
        (sharded / "model-extra.safetensors").write_bytes(first.read_bytes())
        with pytest.raises(InputError, match="and in"):
            open_source(sharded)


class TestFingerprint:
    def test_models_with_different_seeds_have_different_fingerprints(self, checkpoint: Callable[..., Path]) -> None:
        prints = [open_source(checkpoint(seed=seed)).fingerprint for seed in (1, 1, 2)]
        assert prints[0] == prints[1] != prints[2]

    @pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
    def test_the_fingerprint_covers_config_and_tokenizer(
        self, tiny: Path, altered: Callable[..., Path], file: str
    ) -> None:
        directory = altered(**({"rms_norm_eps": 1e-5} if file == "config.json" else {}))
        if file == "tokenizer.json":
            (directory / file).write_text((directory / file).read_text() + " ")
        assert open_source(directory).fingerprint != open_source(tiny).fingerprint

    def test_the_fingerprint_does_not_depend_on_place_or_date(self, tiny: Path, altered: Callable[..., Path]) -> None:
        assert open_source(altered(transformers_version="9.9")).fingerprint == open_source(tiny).fingerprint
