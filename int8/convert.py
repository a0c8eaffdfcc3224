"""From a fake-quant model to the real int8 one: same weights, scales and zero points, other arithmetic."""

from __future__ import annotations

from transformers import PreTrainedModel

from int8 import attention
from int8.fakequant import FakeQuantLinear, replace_linear
from int8.linear import Int8Linear
from int8.recipe import Dequantizer, Recipe


def to_int8(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """The fake-quant model of `recipe`, changed in place to compute its linear layers in int8, and
    the attention products of a prefill where the recipe says so.

    Under the dequantizer FP32_UPCAST all else of the model becomes float32.
    """
    for path, layer in list(model.named_modules()):
        if isinstance(layer, FakeQuantLinear):
            replace_linear(model, path, Int8Linear.of(layer.state, recipe))
    if recipe.int8_attention:
        model.set_attn_implementation(attention.ATTENTION)
    return model.float() if recipe.dequantizer is Dequantizer.FP32_UPCAST else model
