"""For every recipe, sizes computed from shapes equal those of files and of loaded models, to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import make
from transformers import DynamicCache, PreTrainedModel

import presets
from converters.huggingface_source import HuggingFaceSource
from converters.resolver import Need, open_source
from int8.calibrate import calibrate
from int8.checkpoint import CalibrationRecord, save
from int8.kv_cache import int8_cache
from int8.model import open_model
from int8.real_int8 import to_int8
from int8.recipe import NAMED, Activations, Insertion, Recipe, Scales
from int8.recipe_sizes import RecipeSizes, kv_cell_bytes, recipe_sizes

TOKENS = torch.randint(1, 400, (2, 32), generator=torch.Generator().manual_seed(1))
CUSTOM = (
    Recipe("everything", keep=()),
    # some experts, one projection of one layer, and packed weights with padding
    Recipe(
        "kept",
        activations=Activations.FLOAT,
        keep=("lm_head", "*.experts.1.*", "model.layers.1.*down_proj", "*.in_proj_a", "*.o_proj"),
    ),
    Recipe(
        "rope",
        symmetric=True,
        query_key=Scales.HEAD,
        value=Scales.CHANNEL,
        insertion=Insertion.ROPE,
        attention_symmetric=True,
        int8_kv_cache=True,
    ),
)
RECIPES = {recipe.name: recipe for recipe in (*NAMED.values(), *CUSTOM)}
FAMILIES = ("micro", "qwen3moe", "qwen3next", "qwen35moe")


def predicted(directory: Path, recipe: Recipe | None, real: bool = True) -> RecipeSizes:
    source = open_source(directory, need=Need.PLAN)
    assert isinstance(source, HuggingFaceSource)
    config = source.config
    return recipe_sizes(
        source.parameters,
        recipe,
        config["model_type"],
        tied=config["tie_word_embeddings"],
        experts_used=config.get("num_experts_per_tok", 0),
        real=real,
    )


def held(model: PreTrainedModel) -> int:
    """Bytes of a model's tensors without RoPE's frequencies, which do not depend on a recipe."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return sum(tensor.nbytes for name, tensor in tensors if "inv_freq" not in name)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    made = {family: make(family, place / family) for family in FAMILIES if family != "micro"}
    return {"micro": presets.builtin_models()["micro"].directory, **made}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_bytes_of_a_recipe_equal_the_real_ones(
    family: str, recipe: Recipe, directories: dict[str, Path], tmp_path: Path
) -> None:
    directory = directories[family]
    model = open_model(directory, "bfloat16")
    assert held(model) == predicted(directory, None).loaded
    calibrate(model, TOKENS, recipe)
    expected = predicted(directory, recipe)
    assert save(model, recipe, CalibrationRecord(None), directory, tmp_path / "out") == expected.file
    assert held(model) == predicted(directory, recipe, real=False).loaded
    assert held(to_int8(model, recipe)) == expected.loaded
    assert expected.weights == predicted(directory, None).weights
    assert 0 < expected.active <= expected.loaded


def test_predicted_bytes_differ_between_recipes_as_stored_tensors_do(directories: dict[str, Path]) -> None:
    found = {name: predicted(directories["qwen3next"], recipe).file for name, recipe in RECIPES.items()}
    assert len(set(found.values())) == len(found)
    assert (
        predicted(directories["qwen3next"], RECIPES["kept"]).kept > predicted(directories["qwen3moe"], NAMED["sq"]).kept
    )


@pytest.mark.parametrize(
    "recipe",
    [
        replace(NAMED["w8a8"], int8_kv_cache=True),
        replace(NAMED["sq-ph"], int8_kv_cache=True),
        CUSTOM[2],
        replace(CUSTOM[2], query_key=Scales.FLOAT),
        NAMED["sq"],
    ],
)
def test_predicted_bytes_per_cache_cell_equal_the_real_ones(recipe: Recipe, directories: dict[str, Path]) -> None:
    model = open_model(directories["micro"], "bfloat16")
    calibrate(model, TOKENS, recipe)
    cache = int8_cache(model, recipe)
    with torch.no_grad():
        model(TOKENS, past_key_values=cache)
    config = model.config
    cell = kv_cell_bytes(recipe, config.num_key_value_heads, config.head_dim, config.head_dim)
    bytes_held = sum(getattr(layer, "nbytes", layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers)
    assert isinstance(cache, DynamicCache)
    assert bytes_held == sum(cell) * TOKENS.numel() * len(cache.layers)
