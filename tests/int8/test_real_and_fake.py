"""Real int8 is fake-quant with other arithmetic: for every named recipe, every option of a recipe's file and every
kind of model, layer by layer on the same inputs.

What is multiplied is the same, so a layer differs by float32's rounding alone. From one layer to the next such a
difference puts a value that lies on the edge between two integers on the other side, here and there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from every_recipe import tokens
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from int8.attention import int8_attention
from int8.calibrate import calibrate
from int8.fakequant import FakeQuantLinear, attentions, fake_quant_attention
from int8.linear import Int8Linear
from int8.model import decoder_of
from int8.real_int8 import to_int8
from int8.recipe import Recipe

LAYER = 1e-3  # maximum relative difference of a layer
ROUNDING = 1e-5  # typical relative difference of a linear layer


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


class Layers:
    """Compares each quantized layer of a fake-quant model with its int8 version, on the fake-quant model's inputs."""

    def __init__(self, model: PreTrainedModel, chosen: Recipe) -> None:
        self.linear: dict[str, float] = {}
        self.attention: list[float] = []
        self._model, self._recipe = model, chosen

    @contextmanager
    def compared(self) -> Iterator[None]:
        hooks = [
            layer.register_forward_hook(self._compare_linear(name))
            for name, layer in self._model.named_modules()
            if isinstance(layer, FakeQuantLinear)
        ]
        if self._recipe.int8_attention:
            AttentionInterface.register("both", self._compare_attention)
            AttentionMaskInterface.register("both", sdpa_mask)
            before = self._model.config._attn_implementation
            self._model.set_attn_implementation("both")
        yield
        if self._recipe.int8_attention:
            self._model.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()

    def _compare_linear(self, name: str) -> Callable[..., None]:
        def compare(layer: FakeQuantLinear, inputs: tuple[Tensor], output: Tensor) -> None:
            real = Int8Linear.of(layer.state, self._recipe)(inputs[0])
            assert real.shape == output.shape
            self.linear[name] = max(relative(real, output), self.linear.get(name, 0.0))

        return compare

    def _compare_attention(self, *given: Any, **options: Any) -> tuple[Tensor, None]:
        fake = fake_quant_attention(*given, **options)
        self.attention.append(relative(int8_attention(*given, **options)[0], fake[0]))
        return fake


@torch.no_grad()
def decoder_outputs(model: PreTrainedModel, given: Tensor) -> list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]:
    """For each decoder layer its arguments and its output [samples, length, width]."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []

    def see(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> None:
        seen.append((arguments, options, output))

    hooks = [layer.register_forward_hook(see, with_kwargs=True) for layer in decoder_of(model).layers]
    model(given, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_every_layer_agrees_with_fake_quant(random_model: PreTrainedModel, chosen: Recipe) -> None:
    fake = copy.deepcopy(random_model)
    calibrate(fake, tokens(4, 64, 1), chosen)
    layers, given = Layers(fake, chosen), tokens(2, 64, 2)
    with layers.compared():
        fake(given, use_cache=False)
    quantized = [name for name, layer in fake.named_modules() if isinstance(layer, FakeQuantLinear)]
    assert set(layers.linear) <= set(quantized)
    assert len(layers.linear) > 0.8 * len(quantized)  # some experts may get no token
    assert max(layers.linear.values()) < ROUNDING < LAYER
    assert len(layers.attention) == chosen.int8_attention * len(list(attentions(fake)))
    assert max(layers.attention, default=0.0) < LAYER

    known = decoder_outputs(fake, given)
    real = to_int8(fake, chosen)
    for layer, (arguments, options, expected) in zip(decoder_of(real).layers, known, strict=True):
        found = layer(*arguments, **options)
        by_token = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert by_token.median() < LAYER  # the median, because tokens with a value on a rounding edge differ
