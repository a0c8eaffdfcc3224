"""Variants of torch are predicted from their own recipe, and only where there is something to make them of."""

from pathlib import Path

import pytest

from converters.errors import InputError
from converters.export import export
from converters.resolver import Need, open_source
from int8.recipe import NAMED, Recipe, from_json, recipe
from sweep.fit.answer import fit_here
from sweep.fit.fit_report import FitOptions, FitRow
from sweep.fit.hardware import Device
from sweep.fit.torch_memory import foreseen

RAM = Device("RAM", "cpu", 64 << 30, 64 << 30, None, True, 0)
OPTIONS = FitOptions(512)


def row(variant: str) -> FitRow:
    return fit_here("micro", [variant], [RAM], OPTIONS).rows[0]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A recipe that keeps the MLP float, and the cache in int8."""
    file = tmp_path / "kept.toml"
    file.write_text('activations = "float"\nkeep = ["lm_head", "*.mlp.*"]\nint8_kv_cache = true\n')
    return file


def test_a_recipe_s_file_is_a_variant_of_its_own(kept: Path) -> None:
    own, published = row(f"int8:{kept}"), row("int8:sq")
    assert own.variant == "int8:kept"
    assert own.file_bytes > published.file_bytes  # two bytes a weight of the MLP
    assert own.figures["kv"].bytes < published.figures["kv"].bytes
    assert "weights kept bfloat16" in own.figures["weights"].formula
    with pytest.raises(InputError, match=r"int8:sqq: there is no recipe.*did you mean sq"):
        row("int8:sqq")


def test_a_formula_can_be_checked() -> None:
    figure = row("int8:sq-ph").figures["weights"]
    words = figure.formula.split()
    assert words[0] == "1"
    numbers = [int(word) for word in words if word.isdigit()]
    _, weights, eight, channels, static, two, floats = numbers
    assert figure.bytes == weights + eight * channels + static + two * floats


def test_sweeps_predict_the_recipe_that_they_make(kept: Path) -> None:
    """A recipe goes to the worker as JSON, and its prediction is that of `sweep fit`."""
    source = open_source("micro", need=Need.PLAN)
    stated: Recipe = from_json(recipe(str(kept)).to_json(), "x")
    told = foreseen(source, "int8", stated, OPTIONS)
    assert told["file_bytes"] == row(f"int8:{kept}").file_bytes
    assert told["memory_bytes"] == row(f"int8:{kept}").total_bytes
    plain, fake = (foreseen(source, kind, NAMED["w8a8"], OPTIONS) for kind in ("int8", "fq"))
    assert fake["file_bytes"] == plain["file_bytes"] < foreseen(source, "torch", None, OPTIONS)["file_bytes"]


def test_int8_is_not_made_of_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "micro-BF16.gguf"
    export(open_source("micro"), {"BF16": file})
    with pytest.raises(InputError, match="need a Hugging Face checkpoint; give its directory or hub id"):
        fit_here(str(file), ["int8:sq"], [RAM], OPTIONS)
