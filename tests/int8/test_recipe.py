"""The published recipes, and the reader of recipe files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from converters.errors import InputError
from int8.recipe import ALL_FOLDS, NAMED, Activations, Fold, Insertion, Recipe, Scales, from_table, recipe


def test_the_published_recipes_have_their_published_settings():
    sq, per_head, dynamic = NAMED["sq"], NAMED["sq-ph"], NAMED["sq-ph-dyn"]
    assert (sq.alpha, sq.query_key, sq.value, sq.activations) == (0.8, "tensor", "channel", "static")
    assert (per_head.alpha, per_head.query_key, per_head.value, per_head.activations) == (
        0.65,
        "head",
        "head",
        "static",
    )
    assert (dynamic.alpha, dynamic.query_key, dynamic.value, dynamic.activations) == (0.65, "head", "head", "dynamic")
    for one in (sq, per_head, dynamic):
        assert set(one.folds) == set(Fold)
        assert not one.symmetric
        assert one.keeps("lm_head")
        assert one.insertion is Insertion.PROJECTION


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_can_be_read_back_from_its_json(name: str):
    table = {key: value for key, value in NAMED[name].to_json().items() if key != "name"}
    assert from_table(table, "here", name) == NAMED[name]


@pytest.mark.parametrize(("name", "same"), [("sq-ph-a0.8", "sq-ph-a0.8"), ("sq-ph-a0.80", "sq-ph-a0.8")])
def test_a_name_can_state_another_alpha(name: str, same: str):
    changed = recipe(name)
    assert (changed.name, changed.alpha) == (same, 0.8)
    assert recipe(f"{name}+vision") == replace(changed, name=f"{same}+vision", vision=True)
    assert replace(changed, name="sq-ph", alpha=0.65) == NAMED["sq-ph"]


@pytest.mark.parametrize("name", ["sq-ph-a1.5", "sq-ph-a", "w8a8-a0.5", "mine-a0.5"])  # w8a8 does not smooth
def test_a_name_with_a_wrong_alpha_is_rejected(name: str):
    with pytest.raises(InputError, match="there is no recipe and no TOML file with this name"):
        recipe(name)


def test_a_file_changes_only_the_keys_it_names(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'base = "sq"\nalpha = 1\nfolds = ["up->down"]\nvalue = "tensor"\nkeep = ["lm_head", "*.down_proj"]\n'
    )
    mine = recipe(str(file))
    assert mine == Recipe(
        "mine",
        alpha=1.0,
        query_key=Scales.TENSOR,
        value=Scales.TENSOR,
        folds=(Fold.UP_DOWN,),
        keep=("lm_head", "*.down_proj"),
    )
    assert mine.keeps("model.layers.0.mlp.down_proj")
    assert not mine.keeps("model.layers.0.mlp.up_proj")


def test_a_file_below_the_home_directory_is_found_by_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.toml").write_text('base = "sq"')
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe("~/mine.toml").alpha == 0.8


def test_layers_that_stay_float_by_default_are_small_and_sensitive():
    kept = ("lm_head", "model.layers.3.mlp.gate", "model.layers.0.mlp.shared_expert_gate",
            "model.layers.0.linear_attn.in_proj_a", "model.layers.0.linear_attn.in_proj_ba")  # fmt: skip
    quantized = ("model.layers.3.mlp.gate_proj", "model.layers.3.mlp.experts.17.gate_proj",
                 "model.layers.0.linear_attn.in_proj_qkvz", "model.layers.0.linear_attn.out_proj")  # fmt: skip
    assert all(map(NAMED["w8a8"].keeps, kept))
    assert not any(map(NAMED["w8a8"].keeps, quantized))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("alpha = 1.5", "'alpha' is 1.5"),
        ("alpha = -0.1", "'alpha' is -0.1"),
        ("alpha = nan", "'alpha' is nan"),
        ("alpha = '0.5'", "'alpha' must be of type float"),
        ("alhpa = 0.5", "unknown key 'alhpa'; did you mean 'alpha'?"),
        ("name = 'x'", "unknown key 'name'"),
        ("base = 'sqq'", "'base' is 'sqq'"),
        ("base = 3", "'base' is 3"),
        ("base = ['sq']", "'base' is ['sq']"),
        ("folds = 'all'", "'folds' must be a list"),
        ("folds = ['q->k']", "'folds' is 'q->k'"),
        ("folds = [1]", "'folds' is 1"),
        ("query_key = 'channel'", "'query_key' is 'channel'"),
        ("value = 'heads'", "'value' is 'heads'"),
        ("percentile = 40", "'percentile' is 40"),
        ("int8_attention = true", "'int8_attention' needs"),
        ("int8_attention = 1", "'int8_attention' must be of type bool"),
        ("alpha = ", "not valid TOML"),
    ],
)
def test_an_error_in_a_file_is_reported_with_file_and_key(tmp_path: Path, content: str, said: str):
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InputError) as error:
        recipe(str(file))
    assert str(file) in str(error.value)
    assert said in str(error.value)


def test_an_unknown_name_is_reported_with_similar_names():
    with pytest.raises(InputError, match="sq-ph"):
        recipe("sq-hp")


def test_recipes_do_not_import_torch():
    code = "import int8.recipe, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_default_recipe_does_not_smooth():
    plain = Recipe("plain")
    assert plain.folds == ()
    assert plain.activations is Activations.STATIC
    assert not plain.quantizes_attention
    assert set(ALL_FOLDS) == set(Fold)
