"""Conversion of a fake-quant model to real int8: the same weights, scales and zero points, other arithmetic."""

from __future__ import annotations

from transformers import PreTrainedModel

from int8 import attention
from int8.fakequant import FakeQuantLinear, quantize_outputs, replace_linear, use_attention
from int8.linear import Int8Linear
from int8.recipe import Dequantizer, Recipe


def to_int8(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """Change the fake-quant model of `recipe` in place, so that its linear layers are computed in int8.

    If the recipe says so, the attention products of a prefill are too. With the dequantizer FP32_UPCAST the rest of the
    model becomes float32.
    """
    for path, layer in list(model.named_modules()):
        if isinstance(layer, FakeQuantLinear):
            replace_linear(model, path, Int8Linear.of(layer.state, recipe, path))
    quantize_outputs(model, recipe)
    if recipe.int8_attention:
        use_attention(model, attention.ATTENTION)
    return model.float() if recipe.dequantizer is Dequantizer.FP32_UPCAST else model
