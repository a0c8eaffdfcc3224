"""What `sweep ablate` varies around a variant of post-training quantization, and what it refuses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

import presets
from converters.errors import InputError
from int8.design_space import INT8, DesignSpace, around, family_of, load
from int8.recipe import Fold
from ptq.design_space import HOLDERS, PTQ, PtqSetup, canonical_setup
from ptq.recipe import METHODS, Order, PtqRecipe, recipe

SHIPPED = presets.AXES["ptq"]
TEXT = {"calibration": "own"}


def space(base: str, *names: str, file: Path = SHIPPED) -> DesignSpace:
    return around(file, base, PTQ, names, TEXT)


def test_each_axis_changes_one_setting_of_the_base():
    found = space("gptq:w4g128")
    base = canonical_setup(PtqSetup(recipe("gptq:w4g128"), "own"))
    assert [grid.columns.name for grid in found.grids] == ["group", "order", "damp", "inputs", "calibration", "samples"]
    for grid in found.grids:
        (row,) = grid.recipes
        for label, change, setup in zip(grid.columns.labels, grid.columns.changes, row, strict=True):
            differing = {
                key: value for key, value in setup.to_json().items() if key != "name" and value != base.to_json()[key]
            }
            assert set(differing) <= set(change), label
            assert all(setup.to_json()[key] == value for key, value in change.items())
    assert [grid.recipes[0].index(base) for grid in found.grids if base in grid.recipes[0]] == [2, 0, 1, 0, 0]
    assert len(found.points) == len(set(found.points)) == sum(len(grid.recipes[0]) for grid in found.grids) - 4
    assert found.left_out == ()
    assert found.points[0].recipe.name == "gptq:w4"


@pytest.mark.parametrize(
    ("base", "axes"),
    [
        ("rtn:w4g128", ["group"]),
        ("hqq:w4g64", ["group"]),
        ("awq:w4g128", ["group", "inputs", "calibration", "samples"]),
        ("billm", ["damp", "inputs", "calibration", "samples"]),
    ],
)
def test_axes_that_the_method_does_not_have_are_left_out(base: str, axes: list[str]):
    assert [grid.columns.name for grid in space(base).grids] == axes


def test_values_that_the_base_cannot_have_are_left_out_and_said():
    found = space("hqq:w4g64")
    assert found.grids[0].columns.labels == ("256", "128", "64", "32")
    (line,) = found.left_out
    assert line.startswith("group a row: hqq needs groups")
    found = space("gptq+a:w4g128")
    assert found.grids[3].columns.labels == ("layer",)
    assert len(found.left_out) == 2
    assert all(line.startswith("inputs ") and "\n" not in line for line in found.left_out)


@pytest.mark.parametrize(
    ("base", "name", "message"),
    [
        ("rtn:w4g128", "order", "rtn:w4g128: 'order' changes nothing: only gptq has it; its axes are group"),
        ("rtn:w4", "samples", "rtn:w4: 'samples' changes nothing: the method reads no calibration text; its axes are"),
        ("billm", "group", "billm: 'group' changes nothing: billm has signs, not a grid; its axes are damp, inputs"),
        ("gptq:w4", "odrer", "odrer: is not an axis of ptq-design-space.toml; did you mean 'order'?"),
        ("gptq:w44", "order", "gptq:w44: weights can have 2 to 8 bits"),
        ("ptq:none.toml", "order", "ptq:none.toml: there is no such recipe file"),
    ],
)
def test_a_wrong_base_or_axis_is_refused_in_one_line(base: str, name: str, message: str):
    with pytest.raises(InputError) as error:
        space(base, name)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_base_decides_the_family():
    families = (INT8, PTQ)
    assert family_of("sq-ph", families, "") is family_of("int8:sq-ph", families, "") is INT8
    assert {family_of(base, families, "") for base in ("sq:w8a8", "billm+", "rot+gptq:w4", "ptq:a.toml", "gptq")} == {
        PTQ
    }
    with pytest.raises(InputError, match=r"--base: 'base' is 'foo:w4'; known are sq, .* such as gptq:w4g128"):
        family_of("foo:w4", families, "--base")
    found = around(presets.DESIGN_SPACE, "int8:sq-ph", INT8, ["alpha"], {})
    assert [setup.alpha for setup in found.points] == [0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0]
    with pytest.raises(InputError, match="int8:w8a8: 'alpha' changes nothing"):
        around(presets.DESIGN_SPACE, "int8:w8a8", INT8, ["alpha"], {})


def test_a_recipe_file_is_a_base_and_a_file_of_ones_own_has_grids(tmp_path: Path):
    (tmp_path / "mine.toml").write_text('base = "gptq:w3g64"\ndamp = 0.2\n')
    own = f"ptq:{tmp_path / 'mine.toml'}"
    found = space(own, "order")
    assert {setup.recipe.damp for setup in found.points} == {0.2}
    assert {setup.recipe.order for setup in found.points} == set(Order)
    (tmp_path / "space.toml").write_text(
        f'version = 1\n[axes.samples]\nvalues = [8, 16]\n[axes.order]\nvalues = ["static", "none"]\n'
        f'[[grids]]\nbase = "{own}"\nrows = "samples"\ncolumns = "order"\n'
    )
    crossed = load(tmp_path / "space.toml", (INT8, PTQ), {"ptq": TEXT})
    assert crossed.family is PTQ
    assert [(one.samples, one.recipe.order.value, one.calibration) for one in crossed.points] == [
        (8, "static", "own"), (8, "none", "own"), (16, "static", "own"), (16, "none", "own")
    ]  # fmt: skip
    (tmp_path / "space.toml").write_text("version = 1\n[axes.samples]\nvalues = [0]\n")
    found = space("gptq:w4", file=tmp_path / "space.toml")
    assert "'samples' is 0" in found.left_out[0]


def test_settings_without_effect_do_not_make_another_setup():
    plain = canonical_setup(PtqSetup(recipe("rtn:w4g128"), "own", 8))
    assert plain == PtqSetup(recipe("rtn:w4g128"))
    whole_rows = [PtqSetup(PtqRecipe("", METHODS["gptq"]["rounding"], order=order)) for order in Order]
    assert len({canonical_setup(one) for one in whole_rows}) == 2  # static and dynamic have the same scales
    folds = (Fold.V_O, Fold.NORM_QKV)
    assert canonical_setup(PtqSetup(PtqRecipe("", awq=True, folds=folds))).recipe.folds == folds[::-1]
    assert set(HOLDERS) <= {field.name for field in fields(PtqRecipe)} | {"calibration", "samples"}
