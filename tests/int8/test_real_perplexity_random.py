"""The perplexity of real int8 is that of fake-quant within a thousandth: random models of every kind, every recipe."""

from __future__ import annotations

import copy
import math

import pytest
from every_recipe import MODELS, losses, tokens
from transformers import PreTrainedModel

from int8.calibrate import calibrate
from int8.real_int8 import to_int8
from int8.recipe import Recipe

PERPLEXITY = 1e-3  # maximum relative difference

KINDS = [
    pytest.param(name, marks=pytest.mark.slow if name in ("qwen3moe", "qwen35") else pytest.mark.release)
    for name in MODELS
]
"""Of the other two kinds there is a trained model: see test_real_perplexity_trained.py."""


@pytest.mark.parametrize("random_model", KINDS, indirect=True)
def test_perplexity_agrees_with_fake_quant_within_a_thousandth(random_model: PreTrainedModel, chosen: Recipe) -> None:
    """The perplexity of a random model on random tokens is not precise to a thousandth, so its error is added."""
    given = tokens(32, 128, 3)
    quantized = copy.deepcopy(random_model)
    calibrate(quantized, tokens(4, 64, 1), chosen)
    fake = losses(quantized, given)
    difference = losses(to_int8(quantized, chosen), given) - fake
    error = float(difference.std()) / math.sqrt(len(difference))
    assert error < PERPLEXITY
    assert abs(math.expm1(float(difference.mean()))) < PERPLEXITY + 2 * error
