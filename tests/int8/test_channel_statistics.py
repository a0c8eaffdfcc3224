"""A single reading of the text gives every recipe the same statistics as its own calibration."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from int8.calibrate import calibrate
from int8.channel_statistics import measure_channels, statistics_for
from int8.recipe import NAMED, Fold, Insertion, Scales
from int8.statistics import Statistics, StatisticsCache

BASE = NAMED["sq-ph"]
RECIPES = {
    "sq": NAMED["sq"],
    "sq-ph": BASE,
    "sq-ph-dyn": NAMED["sq-ph-dyn"],
    "after norm and RoPE": replace(BASE, insertion=Insertion.ROPE, query_key=Scales.TENSOR, value=Scales.TENSOR),
    "one fold": replace(BASE, folds=(Fold.V_O,), alpha=0.2, value=Scales.CHANNEL),
    "other layers": replace(BASE, keep=("*.down_proj", "lm_head")),
    "unfolded": NAMED["w8a8"],
}


@pytest.fixture(scope="module")
def seen() -> dict[str, Statistics]:
    return {}


@pytest.mark.parametrize(("name", "recipe"), [*(("micro", one) for one in RECIPES), ("micro-moe", "sq-ph")])
def test_statistics_for_a_recipe_equal_those_of_its_own_calibration(
    fresh: Callable[..., PreTrainedModel],
    calibration_tokens: torch.Tensor,
    seen: dict[str, Statistics],
    name: str,
    recipe: str,
):
    """Equal within the rounding of float32: calibration reads folded values, and this divides unfolded ones."""
    model, tokens = fresh(name), calibration_tokens[:4]
    if name not in seen:
        seen[name] = measure_channels(model, tokens)
    own = calibrate(copy.deepcopy(model), tokens, RECIPES[recipe])
    derived = statistics_for(RECIPES[recipe], model, seen[name])
    assert derived.channel_max.keys() == own.channel_max.keys()
    assert derived.ranges.keys() == own.ranges.keys()
    for key, value in own.channel_max.items():
        torch.testing.assert_close(derived.channel_max[key], value, rtol=1e-4, atol=1e-5 * float(value.max()))
    for key, value in own.ranges.items():
        assert derived.ranges[key].shape == value.shape
        torch.testing.assert_close(derived.ranges[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))


def test_statistics_without_folds_are_equal_bit_by_bit(
    fresh: Callable[..., PreTrainedModel], calibration_tokens: torch.Tensor
):
    model, tokens = fresh(), calibration_tokens[:4]
    derived = statistics_for(NAMED["w8a8"], model, measure_channels(model, tokens))
    own = calibrate(copy.deepcopy(model), tokens, NAMED["w8a8"])
    assert all(torch.equal(derived.ranges[key], value) for key, value in own.ranges.items())


def test_measuring_channels_does_not_change_the_model(
    fresh: Callable[..., PreTrainedModel], calibration_tokens: torch.Tensor
):
    model = fresh().to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        logits = model(calibration_tokens[:1]).logits
        measure_channels(model, calibration_tokens[:2])
        assert torch.equal(model(calibration_tokens[:1]).logits, logits)
    after = model.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )


def test_percentiles_below_100_need_another_reading_of_the_text(
    fresh: Callable[..., PreTrainedModel], calibration_tokens: torch.Tensor
):
    model, tokens = fresh(), calibration_tokens[:4]
    recipe = replace(BASE, percentile=99.0)
    known = statistics_for(recipe, model, measure_channels(model, tokens))
    assert not known.ranges
    passes: list[int] = []
    found = calibrate(model, tokens, recipe, known=known, progress=lambda done, total: passes.append(total))
    assert passes[-1] == len(tokens) * model.config.num_hidden_layers  # one pass, because the maxima are known
    assert found.ranges


def test_channel_statistics_are_cached_by_content(
    fresh: Callable[..., PreTrainedModel], calibration_tokens: torch.Tensor, tmp_path: Path
):
    tokens = calibration_tokens[:2]
    seen = measure_channels(fresh(), tokens)
    StatisticsCache(tmp_path, "model", tokens).save_channels(seen)
    kept = StatisticsCache(tmp_path, "model", tokens).load_channels()
    assert kept is not None
    for part in ("channel_max", "ranges"):
        own, read = getattr(seen, part), getattr(kept, part)
        assert own.keys() == read.keys()
        assert all(torch.equal(own[key], read[key]) for key in own)
    assert StatisticsCache(tmp_path, "other", tokens).load_channels() is None
    assert StatisticsCache(tmp_path, "model", tokens[:1]).load_channels() is None
