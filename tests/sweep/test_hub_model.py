"""A GGUF file in a repository of the hub is a MODEL of `sweep eval` and `sweep run` like one on this disk."""

from pathlib import Path

import pytest

import presets
from converters.export import export
from converters.gguf_source import gguf_fingerprint
from converters.hub import HubFile
from converters.resolver import open_source
from sweep.execution.local import LocalHost
from sweep.planning.preparing import prepare, prepare_single
from sweep.planning.request import Request

MICRO = presets.builtin_models()["micro"]
MODEL = "hub:org/files/micro-BF16.gguf"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, as if the hub's cache had it."""
    file = tmp_path / "micro-BF16.gguf"
    export(open_source("micro"), {"BF16": file})
    monkeypatch.setattr(HubFile, "cached", lambda _: file)
    return file


def test_it_is_evaluated_as_it_is(cached: Path, tmp_path: Path) -> None:
    swept = prepare_single(Request(MODEL, perplexity=MICRO.text, workspace=tmp_path / "w"), lambda _: None, LocalHost())
    assert (swept.model.name, swept.model.path) == ("micro-BF16", cached)
    assert swept.model.fingerprint == gguf_fingerprint(cached)
    assert [(variant.name, variant.file) for variant in swept.variants] == [("hub:micro-BF16.gguf", cached)]


def test_quants_are_made_of_it(cached: Path, tmp_path: Path) -> None:
    asked = Request(MODEL, variants="=Q4_K_M", tasks=("none",), perplexity=MICRO.text, workspace=tmp_path / "w")
    swept = prepare(asked, lambda _: None, LocalHost())
    assert swept.model.path == cached
    assert [variant.quant for variant in swept.variants] == ["BF16", "Q4_K_M"]
