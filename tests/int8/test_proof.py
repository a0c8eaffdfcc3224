"""The effect of int8 recipes on the trained built-in model with outlier channels, which change no logit.

Small models grow no outliers of their own, so they are put in (see outliers.py); perplexity is of a text that
calibration has not seen. The limits are of effects many times as large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from outliers import add_outliers, scale_query_key_head, spread_value_heads
from torch import Tensor
from transformers import PreTrainedModel

from int8.calibrate import calibrate
from int8.recipe import ALL_FOLDS, NAMED, Activations, Fold, Insertion, Recipe, Scales

SMOOTH = Recipe("smooth", alpha=0.65, folds=ALL_FOLDS)
DYNAMIC = replace(SMOOTH, activations=Activations.DYNAMIC)
WEIGHTS_ALONE = NAMED["w8a16"]


@pytest.fixture(scope="module")
def measured() -> dict[tuple[object, ...], float]:
    """A cache of perplexities."""
    return {}


@pytest.fixture
def worse(
    fresh: Callable[..., PreTrainedModel],
    calibration_tokens: Tensor,
    perplexity: Callable[[PreTrainedModel], float],
    measured: dict[tuple[object, ...], float],
) -> Callable[..., float]:
    """The relative increase of a recipe's perplexity over the float model's: 0.01 is one percent."""

    def one(recipe: Recipe | None, change: Callable[..., None] | None, *arguments: object) -> float:
        key = recipe, change, *arguments
        if key not in measured:
            model = fresh()
            if change:
                change(model, *arguments)
            if recipe:
                calibrate(model, calibration_tokens, recipe)
            measured[key] = perplexity(model)
        return measured[key]

    def measure(recipe: Recipe | None, change: Callable[..., None], *arguments: object) -> float:
        return one(recipe, change, *arguments) / one(None, None) - 1

    return measure


def test_static_int8_fails_on_outliers_and_smoothing_repairs_it(worse: Callable[..., float]):
    assert abs(worse(None, add_outliers)) < 1e-5  # the model itself is the same
    assert worse(NAMED["w8a8"], add_outliers) > 10
    assert worse(SMOOTH, add_outliers) < 0.005


def test_without_up_down_outliers_still_cause_damage(worse: Callable[..., float]):
    """Without the fold up->down, the outliers before down_proj remain and cause damage."""
    without = replace(SMOOTH, folds=tuple(fold for fold in ALL_FOLDS if fold is not Fold.UP_DOWN))
    assert worse(without, add_outliers) > 0.5


def test_dynamic_scales_are_better_than_static_ones_on_outliers(worse: Callable[..., float]):
    plain = worse(NAMED["w8a8-dyn"], add_outliers)
    assert plain < worse(NAMED["w8a8"], add_outliers) / 10
    assert worse(DYNAMIC, add_outliers) < min(plain, 0.005)


@pytest.mark.parametrize("name", ["sq", "sq-ph", "sq-ph-dyn"])
def test_the_published_recipes_stay_accurate_on_outliers(worse: Callable[..., float], name: str):
    assert worse(NAMED[name], add_outliers) < 0.005


def test_one_scale_per_head_of_v_is_better_than_one_for_all_if_heads_differ(worse: Callable[..., float]):
    heads = (64.0, 1.0)
    results = {
        scales: worse(replace(WEIGHTS_ALONE, value=scales), spread_value_heads, heads)
        for scales in (Scales.TENSOR, Scales.HEAD)
    }
    assert results[Scales.HEAD] < results[Scales.TENSOR] / 3
    assert results[Scales.TENSOR] > 0.02


def test_one_scale_per_head_of_q_and_k_helps_at_the_projection(worse: Callable[..., float]):
    """At the projection, one head's range dominates the others; the norm then removes its scale."""

    def result(scales: Scales, insertion: Insertion) -> float:
        recipe = replace(WEIGHTS_ALONE, query_key=scales, insertion=insertion)
        return worse(recipe, scale_query_key_head, 64.0)

    assert result(Scales.TENSOR, Insertion.PROJECTION) > 0.1
    assert result(Scales.HEAD, Insertion.PROJECTION) < 0.002
    assert abs(result(Scales.TENSOR, Insertion.ROPE)) < 0.002
