"""Design spaces: the shipped one, errors in files, and recipes that have the same model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import presets
from converters.errors import InputError
from int8.calibrate import calibrate
from int8.design_space import MAX_POINTS, canonical_recipe, load
from int8.recipe import NAMED, Activations, Dequantizer, Fold, Insertion, Recipe, Scales

SMALL = """
version = 1
[axes.alpha]
values = [0.2, 0.5]
[axes.folds.values]
none = { folds = [] }
norms = { folds = ["norm->gate/up", "norm->qkv"] }
[[grids]]
base = "sq-ph"
rows = "folds"
columns = "alpha"
"""


def test_a_grid_crosses_two_axes_and_takes_the_rest_from_the_base(tmp_path: Path):
    space = load(written(tmp_path, SMALL))
    (grid,) = space.grids
    norms = (Fold.NORM_QKV, Fold.NORM_GATE_UP)
    assert grid.recipes[1] == tuple(replace(NAMED["sq-ph"], name="", alpha=a, folds=norms) for a in (0.2, 0.5))
    assert grid.recipes[0][0] == grid.recipes[0][1]  # without folds alpha has no effect
    assert space.points == [grid.recipes[0][0], *grid.recipes[1]]


def test_every_grid_of_the_shipped_space_has_the_published_recipes():
    space = load(presets.DESIGN_SPACE)
    published = canonical_recipe(NAMED["sq-ph"])
    for grid in space.grids:
        assert published in [recipe for row in grid.recipes for recipe in row]
    assert {canonical_recipe(NAMED[name]) for name in ("sq", "sq-ph", "sq-ph-dyn")} <= set(space.points)
    seen = {key: {getattr(recipe, key) for recipe in space.points} for key in ("folds", "activations", "insertion")}
    assert all(len(values) > 1 for values in seen.values())
    assert min(recipe.alpha for recipe in space.points) == 0
    assert max(recipe.alpha for recipe in space.points) == 1
    assert len(space.points) == len(set(space.points)) < 100


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("values = [0.2, 0.5]", "values = [0.2, 1.5]", r"grid 1 \(none; 1.5\): 'alpha' is 1.5; it must be from 0 to 1"),
        ("values = [0.2, 0.5]", "values = []", "axis 'alpha': has no 'values'"),
        ("values = [0.2, 0.5]", "", "axis 'alpha': has no 'values'"),
        ("values = [0.2, 0.5]", "values = [0.5, 0.5]", "axis 'alpha': has 0.5 twice"),
        ("values = [0.2, 0.5]", "value = [0.5]", "axis 'alpha': unknown key 'value'; did you mean 'values'?"),
        ("[axes.alpha]", "[axes.alhpa]", "grid 1: 'columns' is 'alpha', which is not an axis; did you mean 'alhpa'?"),
        ("none = { folds = [] }", "none = { fold = [] }", "unknown key 'fold'; did you mean 'folds'?"),
        ("none = { folds = [] }", "none = 3", "axis 'folds': 'none' must be a table of a recipe's keys"),
        ('"norm->qkv"]', '"norm->kqv"]', "'folds' is 'norm->kqv'; known are"),
        ('base = "sq-ph"', 'base = "sq-hp"', "'base' is 'sq-hp'; known are sq"),
        ('base = "sq-ph"', "", "grid 1: 'base' is missing"),
        ('rows = "folds"', 'rows = "alpha"', "grid 1: both of its axes change 'alpha'"),
        ('rows = "folds"', 'rows = "folds"\nset = { alpha = 0.5 }', "grid 1: 'set' has 'alpha', which one of its axes"),
        ('rows = "folds"', 'rows = "folds"\nset = { int8_attention = true }', "'int8_attention' needs"),
        ('rows = "folds"', "rows = 3", r"grid 1: 'rows' has the wrong type \(int\)"),
        ("version = 1", "version = 2", "'version' is 2; this program reads 1"),
        ("version = 1", "", "'version' is missing; this program reads 1"),
        ("version = 1", "version = 1\ngrid = 3", "unknown key 'grid'; did you mean 'grids'?"),
        ("version = 1", "version = = 1", "not valid TOML"),
    ],
)
def test_an_error_in_a_file_is_reported_in_one_line(tmp_path: Path, old: str, new: str, message: str):
    assert old in SMALL
    file = written(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as error:
        load(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_files_without_grids_with_too_many_points_or_missing_are_rejected(tmp_path: Path):
    with pytest.raises(InputError, match="has no \\[\\[grids\\]\\]"):
        load(written(tmp_path, SMALL.partition("[[grids]]")[0]))
    many = ", ".join(str(i / 10_000) for i in range(MAX_POINTS))
    with pytest.raises(InputError, match=r"its grids have 1,000 points, but at most 500"):
        load(written(tmp_path, SMALL.replace("0.2, 0.5", many)))
    with pytest.raises(InputError, match="there is no such design space"):
        load(tmp_path / "none.toml")


BASE = NAMED["sq-ph"]
UNSMOOTHED = NAMED["w8a8"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (UNSMOOTHED, replace(UNSMOOTHED, alpha=0.9)),
        (NAMED["w8a16"], replace(NAMED["w8a16"], symmetric=True, percentile=99.0)),
        (UNSMOOTHED, replace(UNSMOOTHED, attention_symmetric=True, insertion=Insertion.ROPE)),
        (BASE, replace(BASE, folds=BASE.folds[::-1])),
        (
            replace(BASE, insertion=Insertion.ROPE),
            replace(BASE, insertion=Insertion.ROPE, int8_attention=True, dequantizer=Dequantizer.BF16),
        ),
    ],
)
def test_recipes_with_the_same_canonical_form_have_the_same_model(
    fresh: Callable[..., PreTrainedModel], calibration_tokens: torch.Tensor, one: Recipe, other: Recipe
):
    """The logits are equal bit by bit, calibrated on the same text."""
    assert one != other
    assert canonical_recipe(one) == canonical_recipe(other)
    model, tokens = fresh(), calibration_tokens[:2]
    logits = []
    for recipe in (one, other):
        quantized = copy.deepcopy(model)
        calibrate(quantized, tokens, recipe)
        with torch.no_grad():
            logits.append(quantized(tokens).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.4},
        {"symmetric": True},
        {"activations": Activations.DYNAMIC},
        {"query_key": Scales.TENSOR},
        {"insertion": Insertion.ROPE},
        {"folds": (Fold.UP_DOWN,)},
        {"percentile": 99.0},
        {"int8_kv_cache": True},
        {"keep": ()},
        {"attention_symmetric": True},
    ],
)
def test_settings_that_change_the_model_change_the_canonical_recipe(changes: dict[str, object]):
    assert canonical_recipe(BASE) != canonical_recipe(replace(BASE, **changes))  # type: ignore[arg-type]


def written(directory: Path, text: str) -> Path:
    file = directory / "space.toml"
    file.write_text(text)
    return file
