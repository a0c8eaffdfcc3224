"""Names of variants and recipe files."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from converters.errors import InputError
from ptq.recipe import AwqLoss, Order, PtqRecipe, Rounding, from_json, from_table, recipe

NAMES = {
    "rtn:w4": PtqRecipe("rtn:w4"),
    "rtn:w4-sym": PtqRecipe("rtn:w4-sym", symmetric=True),
    "gptq:w3g128": PtqRecipe("gptq:w3g128", Rounding.GPTQ, 3, 128),
    "gptq+a:w4g64": PtqRecipe("gptq+a:w4g64", Rounding.GPTQ, 4, 64, asymmetric_calibration=True),
    "awq:w4g128": PtqRecipe("awq:w4g128", bits=4, group=128, awq=True),
    "awq+gptq:w3g128": PtqRecipe("awq+gptq:w3g128", Rounding.GPTQ, 3, 128, awq=True),
    "hqq:w4g64": PtqRecipe("hqq:w4g64", Rounding.HQQ, 4, 64),
    "sq:w8a8": PtqRecipe("sq:w8a8", bits=8, symmetric=True, activation_bits=8, smooth=True),
    "sq+gptq:w4a8g128": PtqRecipe(
        "sq+gptq:w4a8g128", Rounding.GPTQ, 4, 128, symmetric=True, activation_bits=8, smooth=True
    ),
    "rot+rtn:w4": PtqRecipe("rot+rtn:w4", rotate=True),
    "sq+rot:w4a4": PtqRecipe("sq+rot:w4a4", symmetric=True, activation_bits=4, smooth=True, rotate=True),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_states_its_recipe_and_is_read_back(name: str):
    found = recipe(name)
    assert found == NAMES[name]
    assert found.name == name
    assert from_json(found.to_json(), "x") == found


def test_one_recipe_has_one_name():
    assert recipe("awq+rtn:w4g128").name == "awq:w4g128"
    assert recipe("rot:w4").name == "rot+rtn:w4"
    assert recipe("rtn:w4-asym").name == "rtn:w4"
    assert recipe("sq:w8a8-sym").name == "sq:w8a8"


def test_billm_needs_no_bits():
    assert recipe("billm").rounding is Rounding.BILLM
    assert recipe("billm+").masks != recipe("billm").masks
    assert from_json(recipe("billm+").to_json(), "x") == recipe("billm+")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rtn:w9", "weights can have 2 to 8 bits, not 9"),
        ("rtn:w1", "weights can have 2 to 8 bits, not 1"),
        ("gptq:4", "'4' does not state the bits; write, for example, gptq:w4g128"),
        ("gptp:w4", "there is no method 'gptp'; did you mean gptq?"),
        ("gptq+sq:w4", "methods are written once, in the order in which they are applied: sq+gptq"),
        ("gptq+gptq:w4", "methods are written once"),
        ("rtn+gptq:w4", "weights are rounded once"),
        ("a:w4", "write gptq+a:w4g128"),
        ("hqq:w4", "hqq needs groups"),
        ("hqq:w4g64-sym", "hqq needs groups and has float zero points"),
        ("sq+awq:w4", "both choose the scales of the same channels"),
        ("rtn:w4a7", "activations can have 4, 8 or 16 bits, not 7"),
        ("rtn:w4g4", "a group has at least 16 columns, not 4"),
        ("ptq:nothing.toml", "there is no such recipe file"),
    ],
)
def test_a_wrong_name_is_one_clear_line(name: str, message: str):
    with pytest.raises(InputError) as caught:
        recipe(name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


def test_a_recipe_file_changes_its_base(tmp_path: Path):
    file = tmp_path / "careful.toml"
    file.write_text('base = "awq+gptq"\nbits = 3\ngroup = 64\ndamp = 0.05\norder = "dynamic"\nawq_loss = "output"\n')
    found = recipe(f"ptq:{file}")
    assert found.name == "awq+gptq:w3g64@careful"
    assert (found.awq, found.rounding, found.damp) == (True, Rounding.GPTQ, 0.05)
    assert (found.order, found.awq_loss) == (Order.DYNAMIC, AwqLoss.OUTPUT)
    file.write_text('base = "gptq:w4g128"\nsearch = true\n')
    assert recipe(f"ptq:{file}").name == "gptq:w4g128@careful"
    file.write_text('base = "billm"\nblock = 64\n')
    assert recipe(f"ptq:{file}").name == "billm@careful"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dampp = 0.1", "unknown key 'dampp'; did you mean 'damp'?"),
        ("damp = 1.5", "'damp' is 1.5; it must be above 0 and below 1"),
        ('base = "gptx"', "there is no method 'gptx'"),
        ("bits = 4.5", "'bits' must be of type int, not float"),
        ('order = "backwards"', "'order' is 'backwards'; known are static, dynamic, none"),
        ("block = 0", "'block' is 0; it must be at least 1"),
        ("alpha = 2", "'alpha' is 2.0; it must be from 0 to 1"),
        ("embedding_bits = 4", "'embedding_bits' is 4; it can be 8 or 16"),
        ('base = "billm"\nbits = 2', "billm has 1 bit"),
        ('base = "gptq+a"\ninputs = "float"', "'inputs' is 'float', but GPTAQ (+a) needs 'layer'"),
        ("bits = ", "is not valid TOML"),
        ("base = 4", "'base' is 4"),
    ],
)
def test_a_wrong_recipe_file_is_one_clear_line(text: str, message: str, tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        recipe(f"ptq:{file}")
    assert message in str(caught.value)


def test_methods_that_read_activations_need_a_text():
    needing = {name for name in NAMES if recipe(name).needs_text}
    assert needing == {name for name in NAMES if not name.startswith(("rtn", "hqq", "rot"))}
    assert recipe("billm").needs_text
    assert recipe("rot+gptq:w4").needs_text


def test_the_documentation_shows_every_key_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ptq.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    table = tomllib.loads(block)
    assert set(table) == {field.name for field in fields(PtqRecipe)} - {"name"} | {"base"}
    assert from_table(table, "ptq.md") == recipe(table["base"])
