"""Embedding models and rerankers are rejected with the reason, however they are recognized."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.catalogue import public_model
from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.purpose import require_language_model
from converters.resolver import open_source
from int8.architectures import require_quantizable


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Qwen3-Embedding-0.6B", "an embedding model"),
        ("Qwen/Qwen3-VL-Embedding-2B", "an embedding model"),
        ("my-qwen3-reranker-4b-finetune", "a reranker"),
    ],
)
def test_a_name_tells(name: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"{name}: this is {kind}"):
        require_language_model(name, None)
    with pytest.raises(InputError, match=kind):
        ConfigSource(public_model("Qwen3-0.6B").config, Path("config.json"), name)


@pytest.mark.parametrize("read", [open_source, require_quantizable])
def test_files_tell(tiny: Path, tmp_path: Path, read: Callable[[Path], object]) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    read(model)
    (model / "README.md").write_text("Text\n\n# Qwen3-Reranker-0.6B\n")
    with pytest.raises(InputError, match="this is a reranker"):
        read(model)
    (model / "README.md").write_text("# My model\n\nIt is not # Qwen3-Reranker.\n")
    read(model)
    (model / "modules.json").write_text("[]")
    read(model)
    (model / "1_Pooling").mkdir()
    with pytest.raises(InputError, match="this is an embedding model"):
        read(model)
