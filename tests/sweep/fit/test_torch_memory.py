"""The memory of torch variants is predicted from their recipe, and only for models that they can be made of."""

from pathlib import Path

import pytest

from converters.errors import InputError
from converters.export import export
from converters.resolver import Need, open_source
from int8.recipe import NAMED, Recipe, from_json, recipe
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions, FitRow
from sweep.fit.hardware import Device
from sweep.fit.torch_memory import predicted_sizes

RAM = Device("RAM", "cpu", 64 << 30, 64 << 30, None, True, 0)
OPTIONS = FitOptions(512)


def row(variant: str) -> FitRow:
    return fit_model("micro", [variant], [RAM], OPTIONS).rows[0]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe with an MLP in bfloat16 and an int8 KV cache."""
    file = tmp_path / "kept.toml"
    file.write_text('activations = "float"\nkeep = ["lm_head", "*.mlp.*"]\nint8_kv_cache = true\n')
    return file


def test_a_recipe_file_is_a_variant(recipe_file: Path) -> None:
    own, published = row(f"int8:{recipe_file}"), row("int8:sq")
    assert own.variant == "int8:kept"
    assert (own.recipe, published.recipe) == (None, "sq")
    assert own.file_bytes > published.file_bytes  # two bytes per weight of the MLP
    assert own.figures["kv"].bytes < published.figures["kv"].bytes
    assert "weights in bfloat16" in own.figures["weights"].formula
    with pytest.raises(InputError, match=r"int8:sqq: there is no recipe.*did you mean sq"):
        row("int8:sqq")


def test_the_formula_of_the_weights_gives_their_bytes() -> None:
    figure = row("int8:sq-ph").figures["weights"]
    words = figure.formula.split()
    assert words[0] == "1"
    numbers = [int(word) for word in words if word.isdigit()]
    _, weights, eight, channels, static, two, floats = numbers
    assert figure.bytes == weights + eight * channels + static + two * floats


def test_predictions_of_a_sweep_equal_the_rows_of_sweep_fit(recipe_file: Path) -> None:
    """A recipe is sent to the worker as JSON; its prediction there equals that of `sweep fit`."""
    source = open_source("micro", need=Need.PLAN)
    stated: Recipe = from_json(recipe(str(recipe_file)).to_json(), "x")
    predicted = predicted_sizes(source, "int8", stated, OPTIONS)
    assert predicted["file_bytes"] == row(f"int8:{recipe_file}").file_bytes
    assert predicted["memory_bytes"] == row(f"int8:{recipe_file}").total_bytes
    plain, fake = (predicted_sizes(source, kind, NAMED["w8a8"], OPTIONS) for kind in ("int8", "fq"))
    assert fake["file_bytes"] == plain["file_bytes"] < predicted_sizes(source, "torch", None, OPTIONS)["file_bytes"]


def test_int8_variants_of_a_gguf_file_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "micro-BF16.gguf"
    export(open_source("micro"), {"BF16": file})
    with pytest.raises(InputError, match="need a Hugging Face checkpoint; give its directory or hub id"):
        fit_model(str(file), ["int8:sq"], [RAM], OPTIONS)
