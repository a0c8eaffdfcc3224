"""Fixtures with tiny models, made by checkpoints.py."""

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import families
import pytest
import torch
import transformers
from checkpoints import make_checkpoint, make_tokenizer

from converters.export import export, open_source

torch.set_num_threads(1)  # for tiny models a second thread costs more than it gains


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied BF16 Qwen3 whose rows are multiples of 256. Must not be changed; `altered` copies it."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def tokenizer() -> Callable[..., transformers.PreTrainedTokenizerFast]:
    """`make_tokenizer`."""
    return make_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`make_checkpoint`, which writes to a new directory at each call."""
    count = itertools.count()
    return lambda **settings: make_checkpoint(tmp_path / f"checkpoint-{next(count)}", **settings)


@pytest.fixture
def altered(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of `tiny` with changed entries in its config; None removes an entry."""

    def copy(**settings: object) -> Path:
        directory = tmp_path / "altered"
        directory.mkdir(exist_ok=True)
        for file in tiny.iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
        config = json.loads((tiny / "config.json").read_text())
        for key, value in settings.items():
            config.pop(key, None) if value is None else config.update({key: value})
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    return copy


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BF16 file of a small Qwen3.5-MoE."""
    directory = tmp_path_factory.mktemp("hybrid")
    families.make("qwen35moe", directory / "model")
    make_tokenizer(directory / "model")
    export(open_source(directory / "model"), {"BF16": directory / "model.gguf"})
    return directory / "model.gguf"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB: enough for Q4_K_M, not for F32."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs privileges")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)
