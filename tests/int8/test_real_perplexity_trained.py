"""The perplexity of real int8 is that of fake-quant within a thousandth: the trained models, every recipe."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from every_recipe import losses
from torch import Tensor
from transformers import PreTrainedModel

from int8.calibrate import calibrate
from int8.real_int8 import to_int8
from int8.recipe import Recipe

PERPLEXITY = 1e-3  # maximum relative difference


@pytest.mark.slow
@pytest.mark.parametrize("name", ["micro", "micro-moe"])
def test_perplexity_of_trained_models_is_within_a_thousandth(
    fresh: Callable[[str], PreTrainedModel], calibration_tokens: Tensor, test_tokens: Tensor, name: str, chosen: Recipe
) -> None:
    quantized = fresh(name)
    calibrate(quantized, calibration_tokens[:8], chosen)
    fake = losses(quantized, test_tokens).mean()
    real = losses(to_int8(quantized, chosen), test_tokens).mean()
    assert abs(math.expm1(float(real - fake))) < PERPLEXITY
