"""Damaged models, unsupported quantized checkpoints and full disks give a one-line error and leave no file."""

import json
import math
import re
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import families
import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer

from converters.errors import InputError
from converters.export import export
from converters.plan import plan_export
from converters.resolver import open_source

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def models(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every family, with a tokenizer."""
    directory = tmp_path_factory.mktemp("families")
    found = {"qwen3": tiny}
    for i, family in enumerate(families.FAMILIES):
        found[family] = families.make(family, directory / str(i))
        make_tokenizer(found[family])
    return found


FAMILIES = ("qwen3", *families.FAMILIES)


def header_of(directory: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """The offset of the data in a checkpoint's file, and the header's entry of each tensor."""
    with (directory / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return 8 + length, {name: entry for name, entry in header.items() if name != "__metadata__"}


def write_hollow(directory: Path, tensors: Mapping[str, tuple[str, Sequence[int]]]) -> None:
    """Write a sparse file with tensors of these dtypes and shapes."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * {"F32": 4, "BF16": 2, "I8": 1}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)


def of_each_kind(names: Iterable[str], expert: int = 0) -> dict[str, str]:
    """One tensor of each exported kind, by the ending of its name: from the last layer, and from one expert."""
    kinds = {name.partition("layers.")[2].partition(".")[2] or name: name for name in names if "visual." not in name}
    return {kind: name for kind, name in kinds.items() if not re.search(rf"experts\.(?!{expert}\.)\d", kind)}


def canonical_name(name: str) -> str:
    """Messages name missing tensors as text models do."""
    return name.replace("language_model.", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_misshapen_or_unexpected_tensor_is_named(
    models: dict[str, Path], tmp_path: Path, family: str
) -> None:
    directory = Path(shutil.copytree(models[family], tmp_path / "model"))
    good = {name: (entry["dtype"], entry["shape"]) for name, entry in header_of(directory)[1].items()}
    write_hollow(directory, good)
    open_source(directory)
    for victim in of_each_kind(good).values():
        dtype, shape = good[victim]
        for name, instead, words in (
            (victim, None, "is missing"),
            (victim, (dtype, [shape[0] + 1, *shape[1:]]), "by config.json it should be"),
            (victim, (dtype, [1, *shape]), "by config.json it should be"),
            (f"{victim}_of_nothing", (dtype, shape), "is not part of a"),
            (victim, ("I8", shape), "has dtype I8; only"),
        ):
            others = {**good, name: instead}
            write_hollow(directory, {key: entry for key, entry in others.items() if entry is not None})
            with pytest.raises(InputError, match=words) as error:
                open_source(directory)
            message = str(error.value)
            assert f"'{name}'" in message or (instead is None and f"'{canonical_name(name)}'" in message)
            assert str(directory) in message


def write_at(file: BinaryIO, place: int, data: bytes) -> None:
    file.seek(place)
    file.write(data)
    file.flush()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_nan_in_a_tensor_of_any_kind_is_named(models: dict[str, Path], tmp_path: Path, family: str) -> None:
    directory, out = Path(shutil.copytree(models[family], tmp_path / "model")), tmp_path / "out"
    out.mkdir()
    start, entries = header_of(directory)
    with (directory / "model.safetensors").open("r+b") as file:
        for victim in of_each_kind(entries, expert=2).values():
            item = {"F32": np.float32(np.nan).tobytes(), "BF16": b"\xc0\x7f"}[entries[victim]["dtype"]]
            place = start + entries[victim]["data_offsets"][1] - len(item)
            file.seek(place)
            held = file.read(len(item))
            write_at(file, place, item)
            with pytest.raises(InputError, match="the weights are damaged") as error:
                export(open_source(directory), {"BF16": out / "a.gguf"}, threads=1)
            assert f"tensor '{victim}' has nan" in str(error.value)
            assert str(directory) in str(error.value)
            assert list(out.iterdir()) == []
            write_at(file, place, held)


@pytest.mark.parametrize("family", ["qwen3moe", "qwen3next", "qwen3vlmoe"])
def test_unscaled_router_weights_are_rejected(models: dict[str, Path], tmp_path: Path, family: str) -> None:
    directory = Path(shutil.copytree(models[family], tmp_path / "model"))
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config.get("text_config", config)["norm_topk_prob"] = False
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: norm_topk_prob is False; llama\.cpp supports only True"):
        open_source(directory)


OTHERS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "zero_point": True},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "mxfp4": {"quant_method": "mxfp4"},
    "None": {"bits": 4},
}


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("family", ["qwen3", "qwen35moe, multi-modal"])
def test_unsupported_quantized_checkpoints_are_rejected_by_method(
    models: dict[str, Path], tmp_path: Path, family: str, method: str
) -> None:
    directory = Path(shutil.copytree(models[family], tmp_path / "model"))
    file = directory / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"quantization_config": OTHERS[method]}))
    with pytest.raises(InputError, match=f"config.json: the checkpoint is quantized by {method}, which cannot be read"):
        open_source(directory)


BLOCK = 64
PROJECTION = "model.layers.1.mlp.up_proj.weight"
SCALE = f"{PROJECTION}_scale_inv"


def in_fp8(tensors: Tensors) -> Tensors:
    """All projections as F8_E4M3 with a scale of 1 per block."""
    result = {}
    for name, held in tensors.items():
        result[name] = held
        if name.endswith("_proj.weight"):
            result[name] = held.to(torch.float8_e4m3fn)
            result[f"{name}_scale_inv"] = torch.ones([-(-size // BLOCK) for size in held.shape])
    return result


FP8_DAMAGES: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, object], str]] = {
    "no scale": (lambda t: {k: v for k, v in t.items() if k != SCALE}, {}, f"{PROJECTION}' is FP8, but has no"),
    "a row of scales too few": (lambda t: t | {SCALE: t[SCALE][1:]}, {}, r"no _scale_inv of shape \(8, 4\)"),
    "one scale for all": (lambda t: t | {SCALE: t[SCALE][0, 0]}, {}, r"no _scale_inv of shape \(8, 4\)"),
    "transposed scales": (lambda t: t | {SCALE: t[SCALE].T.contiguous()}, {}, r"no _scale_inv of shape \(8, 4\)"),
    "scales of whole numbers": (lambda t: t | {SCALE: t[SCALE].to(torch.int32)}, {}, "has scales of dtype I32"),
    "a scale without a weight": (lambda t: t | {"x_scale_inv": t[SCALE].clone()}, {}, "'x_scale_inv' .* is not part"),
    "another block": (lambda t: t, {"weight_block_size": [128, 128]}, "is FP8, but has no _scale_inv of shape"),
    "no block": (lambda t: t, {"weight_block_size": None}, "weight_block_size is None"),
    "a block of nothing": (lambda t: t, {"weight_block_size": [0, 64]}, r"weight_block_size is \[0, 64\]"),
    "a block of one side": (lambda t: t, {"weight_block_size": [64]}, r"weight_block_size is \[64\]"),
    "a scale that is NaN": (lambda t: t | {SCALE: t[SCALE] * float("nan")}, {}, f"{PROJECTION}' has nan"),
}  # fmt: skip


@pytest.mark.parametrize("damage", FP8_DAMAGES)
def test_fp8_with_wrong_scales_is_rejected(models: dict[str, Path], tmp_path: Path, damage: str) -> None:
    change, settings, words = FP8_DAMAGES[damage]
    directory = Path(shutil.copytree(models["qwen3"], tmp_path / "model"))
    families.rewrite(directory, lambda tensors: change(in_fp8(tensors)))
    file = directory / "config.json"
    quantization = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]} | settings
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": quantization}))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=words) as error:
        export(open_source(directory), {"Q8_0": out / "a.gguf"}, threads=1)
    assert str(directory) in str(error.value)
    assert list(out.iterdir()) == []


EXPORT = """
import resource, sys
from pathlib import Path
from converters import export
from converters.errors import InputError
from converters.resolver import open_source
source, out = open_source(sys.argv[1]), Path(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
plan = export.plan_export

def plan_and_limit(*arguments):  # llama.cpp's dry run also writes a file
    plans = plan(*arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    return plans

export.plan_export = plan_and_limit
for limit in map(int, sys.argv[3:]):
    try:
        export.export(source, {"Q8_0": out / "small.gguf", "F16": out / "large.gguf"}, threads=1)
        print("written")
    except InputError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print([file.name for file in out.iterdir()])
"""


def test_files_that_are_too_large_for_the_disk_leave_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    """A limit on file sizes simulates the disk: from less than the header to one byte less than the file."""
    plans = plan_export(open_source(models["qwen3"]), ["Q8_0", "F16"])
    header, size = len(plans["F16"].parts[0].header), plans["F16"].file_bytes
    assert plans["Q8_0"].file_bytes < size
    limits = [1, header - 1, header, plans["Q8_0"].file_bytes, size // 2, size - 1]
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", EXPORT, str(models["qwen3"]), str(out), *map(str, [*limits, size])]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    message, left = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    assert len(message) == len(limits) + 1
    for line in message[:-1]:
        assert "gguf: the disk is full or a quota is reached" in line
    assert left[:-1] == ["[]"] * len(limits)
    assert message[-1] == "written"
    assert sorted(file.name for file in out.iterdir()) == ["large.gguf", "small.gguf"]


def test_a_disk_that_fills_at_any_tensor_leaves_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    source = open_source(models["qwen3"])
    read, (soft, hard) = source.read_rows, resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    out.mkdir()
    for last in [tensor.name for tensor in source.tensors]:

        def read_and_fill(name: str, start: int, stop: int, last: str = last) -> object:
            if name == last:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # existing bytes stay
            return read(name, start, stop)

        source.read_rows = read_and_fill  # type: ignore[method-assign,assignment]
        try:
            with pytest.raises(InputError, match=r"\.gguf: the disk is full or a quota is reached"):
                export(source, {"Q8_0": out / "a.gguf", "Q4_K_M": out / "b.gguf"}, threads=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(out.iterdir()) == [], last
