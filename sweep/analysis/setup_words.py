"""The settings of an ablation's setups in words: int8 recipes, and those of post-training quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from int8.design_space import Setup
from int8.recipe import ALL_FOLDS, Activations, Fold, Insertion, Recipe, Scales
from ptq.design_space import HOLDERS, PtqSetup
from ptq.recipe import PtqRecipe


def settings_of(setup: Setup) -> dict[str, str]:
    """The settings of a setup in words, by name. A setting that has no effect in this setup is empty."""
    return _WORDS[type(setup)](setup)


def name_of(setup: Setup) -> str:
    """The settings of a setup on one line."""
    return ", ".join(f"{name} {words}" for name, words in settings_of(setup).items() if words)


def _int8(recipe: Recipe) -> dict[str, str]:
    words = {
        "alpha": f"{recipe.alpha:g}" if recipe.folds else "",
        "inputs": _INPUTS[recipe.activations] + (", symmetric" if recipe.symmetric else ""),
        "folds": _folds(recipe.folds),
        "Q/K": recipe.query_key.value,
        "V": recipe.value.value,
        "Q/K at": "" if recipe.query_key is Scales.FLOAT else _PLACES[recipe.insertion],
    }
    for key in ("attention_symmetric", "percentile", "keep", "int8_kv_cache"):
        words[key] = _if_changed(recipe, Recipe(""), key)
    return words


def _ptq(setup: PtqSetup) -> dict[str, str]:
    recipe = setup.recipe
    always = {
        "order": str(recipe.order),
        "damp": f"{recipe.damp:g}",
        "inputs": str(recipe.inputs),
        "calibration": str(setup.calibration),
        "samples": "default" if setup.samples is None else str(setup.samples),
        "alpha": f"{recipe.alpha:g}",
        "folds": _folds(recipe.folds),
    }
    words = {"recipe": recipe.name} | {key: one if HOLDERS[key].has(recipe) else "" for key, one in always.items()}
    for key in ("block", "search", "awq_loss", "clip", "embedding_bits", "keep"):
        words[key] = _if_changed(recipe, PtqRecipe(""), key)
    return words


def _if_changed(recipe: Recipe | PtqRecipe, plain: Recipe | PtqRecipe, key: str) -> str:
    value: Any = getattr(recipe, key)
    if value == getattr(plain, key):
        return ""
    return ", ".join(value) if isinstance(value, tuple) else str(value)


_WORDS: Mapping[type, Callable[[Any], dict[str, str]]] = {Recipe: _int8, PtqSetup: _ptq}
_INPUTS = {Activations.STATIC: "static", Activations.DYNAMIC: "per token", Activations.FLOAT: "float"}
_PLACES = {Insertion.PROJECTION: "projection", Insertion.ROPE: "RoPE"}


def _folds(folds: tuple[Fold, ...]) -> str:
    left = [fold.value for fold in ALL_FOLDS if fold not in folds]
    if not folds:
        return "none"
    if len(left) <= 1:
        return f"without {left[0]}" if left else "all"
    norms = {ALL_FOLDS[0], ALL_FOLDS[1]}
    return "norms" if set(folds) == norms else ", ".join(folds)
