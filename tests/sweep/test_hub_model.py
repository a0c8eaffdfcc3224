"""`sweep eval` and `sweep run` accept a GGUF file on the hub as MODEL, like a local one."""

from pathlib import Path

import pytest

import presets
from converters.export import export
from converters.gguf_source import gguf_fingerprint
from converters.hub import HubFile
from converters.resolver import open_source
from sweep.execution.local import LocalHost
from sweep.planning.prepare import prepare, prepare_single
from sweep.planning.request import Request

MICRO = presets.builtin_models()["micro"]
MODEL = "hub:org/files/micro-BF16.gguf"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the hub's cache seems to contain."""
    file = tmp_path / "micro-BF16.gguf"
    export(open_source("micro"), {"BF16": file})
    monkeypatch.setattr(HubFile, "cached", lambda _: file)
    return file


def test_a_hub_file_is_evaluated_unchanged(cached: Path, tmp_path: Path) -> None:
    swept = prepare_single(
        Request(MODEL, perplexity=(MICRO.text,), workspace=tmp_path / "w"), lambda _: None, LocalHost()
    )
    assert (swept.model.name, swept.model.path) == ("micro-BF16", cached)
    assert swept.model.fingerprint == gguf_fingerprint(cached)
    assert [(variant.name, variant.file) for variant in swept.variants] == [("hub:micro-BF16.gguf", cached)]


def test_quants_are_made_from_a_hub_file(cached: Path, tmp_path: Path) -> None:
    arguments = Request(MODEL, variants="=Q4_K_M", tasks=("none",), perplexity=(MICRO.text,), workspace=tmp_path / "w")
    swept = prepare(arguments, lambda _: None, LocalHost())
    assert swept.model.path == cached
    assert [variant.quant for variant in swept.variants] == ["BF16", "Q4_K_M"]
