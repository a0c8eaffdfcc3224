"""Real int8 is fake-quant with other arithmetic: for every named recipe, every option of a recipe's file and every
kind of model, layer by layer on the same inputs and as perplexity.

What is multiplied is the same, so a layer differs by float32's rounding alone. From one layer to the next such a
difference puts a value that lies on the edge between two integers on the other side, here and there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from families import make
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from int8.attention import int8_attention
from int8.calibrate import calibrate
from int8.fakequant import FakeQuantLinear, attentions, fake_quant_attention
from int8.linear import Int8Linear
from int8.model import decoder_of, open_model
from int8.real_int8 import to_int8
from int8.recipe import NAMED, Recipe, recipe

LAYER = 1e-3  # maximum relative difference of a layer
PERPLEXITY = 1e-3
ROUNDING = 1e-5  # typical relative difference of a linear layer

FILES = {
    "symmetric": "symmetric = true",
    "dynamic, symmetric": 'base = "w8a8-dyn"\nsymmetric = true',
    "float activations": 'activations = "float"\nvalue = "head"',
    "alpha 0": 'base = "sq"\nalpha = 0',
    "alpha 1": 'base = "sq"\nalpha = 1',
    "Q, K by tensor": 'query_key = "tensor"',
    "Q, K by head": 'query_key = "head"',
    "V by tensor": 'value = "tensor"',
    "V by channel": 'value = "channel"',
    "V by head": 'value = "head"',
    "Q, K, V symmetric": 'base = "sq-ph"\nattention_symmetric = true',
    "Q, K by tensor after RoPE": 'base = "sq"\ninsertion = "rope"',
    "Q, K by head after RoPE": 'base = "sq-ph-dyn"\ninsertion = "rope"',
    "int8 attention": 'base = "sq-ph"\ninsertion = "rope"\nint8_attention = true',
    "int8 attention, V by channel": 'base = "sq"\ninsertion = "rope"\nint8_attention = true',
    "int8 cache": 'base = "sq-ph-dyn"\nint8_kv_cache = true',
    "one fold": 'base = "sq"\nfolds = ["up->down"]',
    "percentile": 'base = "w8a8"\npercentile = 99.9',
    "more is kept": 'base = "w8a8-dyn"\nkeep = ["lm_head", "*.mlp.gate", "*.down_proj", "*in_proj_*"]',
}
"""Recipes that each set one option."""
MODELS = ("qwen3", "qwen3moe", "qwen35", "qwen35moe")
"""Tiny random models: dense, with experts, and both with three DeltaNet layers per attention layer."""


@pytest.fixture(params=[*NAMED, *FILES])
def chosen(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    if request.param in NAMED:
        return NAMED[request.param]
    file = tmp_path / "mine.toml"
    file.write_text(FILES[request.param])
    return recipe(str(file))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "qwen3":
        make_checkpoint(directory, dtype=torch.float32, tokenizer=False)
    else:
        make(request.param, directory)
    return open_model(directory)


def tokens(samples: int, length: int, seed: int) -> Tensor:
    return torch.randint(1, 500, (samples, length), generator=torch.Generator().manual_seed(seed))


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
def test_every_layer_agrees_with_fake_quant(model: PreTrainedModel, chosen: Recipe) -> None:
    fake = copy.deepcopy(model)
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


@torch.no_grad()
def losses(model: PreTrainedModel, given: Tensor) -> Tensor:
    """The loss of each token except the first of a sample, float64."""
    logits = torch.cat([model(part, use_cache=False).logits for part in given.split(4)])
    found = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), given[:, 1:].flatten(), reduction="none")
    return found.double()


KINDS = [
    pytest.param(name, marks=pytest.mark.slow if name in ("qwen3moe", "qwen35") else pytest.mark.release)
    for name in MODELS
]
"""Of the other two kinds there is a trained model: see the next test."""


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_perplexity_agrees_with_fake_quant_within_a_thousandth(model: PreTrainedModel, chosen: Recipe) -> None:
    """The perplexity of a random model on random tokens is not precise to a thousandth, so its error is added."""
    given = tokens(32, 128, 3)
    quantized = copy.deepcopy(model)
    calibrate(quantized, tokens(4, 64, 1), chosen)
    fake = losses(quantized, given)
    difference = losses(to_int8(quantized, chosen), given) - fake
    error = float(difference.std()) / math.sqrt(len(difference))
    assert error < PERPLEXITY
    assert abs(math.expm1(float(difference.mean()))) < PERPLEXITY + 2 * error


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
