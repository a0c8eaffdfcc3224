"""Fake-quant rounds exactly the values to int8 that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from int8.arithmetic import Quantizer, scale_and_zero_point
from int8.calibrate import calibrate
from int8.fakequant import FakeQuantLinear, attentions, quantized_linear
from int8.recipe import NAMED, Activations, Insertion, Recipe, Scales

Fresh = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activations", list(Activations))
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_exact_integer_arithmetic(activations: Activations, symmetric: bool, bias: bool):
    """Compared with exact integer arithmetic in int64, scaled in float64."""
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(96, 40, bias=bias)
    x = torch.randn(5, 7, 96, generator=generator) * 3 + 0.5
    scale, zero = scale_and_zero_point(x.amin(), x.amax(), symmetric)
    static = activations is Activations.STATIC
    state = quantized_linear(linear, Quantizer(scale, zero) if static else None)
    layer = FakeQuantLinear(state, Recipe("x", activations=activations, symmetric=symmetric))
    weight = state.weight.double() * state.weight_scale.double()[:, None]
    if activations is Activations.FLOAT:
        expected = x.double() @ weight.T
    else:
        if not static:
            low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
            scale, zero = scale_and_zero_point(low, high, symmetric)
        q = (torch.round(x / scale) + zero).clamp(-128, 127).long() - zero
        products = q @ state.weight.long().T
        expected = products.double() * scale.double() * state.weight_scale.double()
    if bias:
        expected = expected + linear.bias.double()
    assert torch.allclose(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def levels(x: Tensor) -> int:
    return len(x.unique())


@pytest.mark.parametrize("name", ["micro", "micro-moe"])
@pytest.mark.parametrize("scales", [Scales.TENSOR, Scales.HEAD])
@pytest.mark.parametrize("insertion", list(Insertion))
def test_attention_inputs_have_at_most_256_values_per_scale(
    fresh: Fresh, calibration_tokens: Tensor, name: str, scales: Scales, insertion: Insertion
):
    """Q and K have at most 256 values per scale at the insertion point, V before the product; gates have more."""
    tokens = calibration_tokens[:2, :48]
    recipe = replace(NAMED["w8a16"], query_key=scales, value=scales, insertion=insertion)
    model = fresh(name)
    calibrate(model, tokens, recipe)
    attention, _ = next(attentions(model))
    seen: dict[str, Tensor] = {}
    for part in ("query", "key", "value"):
        quantizer = attention.get_submodule(f"{part}_quantizer")
        assert quantizer.scale.numel() == (1 if scales is Scales.TENSOR else {"query": 4}.get(part, 2))
        quantizer.register_forward_hook(lambda _, inputs, out, part=part: seen.update({part: out}))
    norm_inputs: list[Tensor] = []
    # hooks run in the order of registration, so this hook sees the quantizer's result
    attention.q_norm.register_forward_pre_hook(lambda _, inputs: norm_inputs.append(inputs[0]))
    with torch.no_grad():
        model(tokens)
    for part, out in seen.items():
        groups = [out] if scales is Scales.TENSOR else out.unbind(-2)
        assert all(64 < levels(group) <= 256 for group in groups), part
    assert (levels(norm_inputs[0]) <= 256 * 4) == (insertion is Insertion.PROJECTION)


def test_v_has_one_scale_per_channel_if_the_recipe_says_so(fresh: Fresh, calibration_tokens: Tensor):
    model = fresh()
    calibrate(model, calibration_tokens[:4, :64], NAMED["sq"])
    attention, _ = next(attentions(model))
    assert attention.value_quantizer.scale.shape == (2, 64)
    assert attention.query_quantizer.scale.shape == (1, 1)


@pytest.mark.parametrize("insertion", list(Insertion))
@pytest.mark.parametrize("int8_kv_cache", [True, False])
def test_generation_with_a_cache_equals_one_long_prefill(
    fresh: Fresh, calibration_tokens: Tensor, insertion: Insertion, int8_kv_cache: bool
):
    model = fresh()
    recipe = replace(NAMED["sq-ph"], insertion=insertion, int8_kv_cache=int8_kv_cache)
    calibrate(model, calibration_tokens[:4, :64], recipe)
    tokens = calibration_tokens[5:6, :24]
    with torch.no_grad():
        whole = model(tokens).logits
        cache, steps = None, []
        for at in range(24):
            out = model(tokens[:, at : at + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    # an activation rounded to the other side changes a logit by more than float errors do
    difference = (torch.cat(steps, 1) - whole).abs()
    assert difference.median() < 0.01 * whole.std()
    assert difference.max() < 0.2 * whole.std()


def test_an_int8_cache_changes_keys_unless_they_are_already_int8(fresh: Fresh, calibration_tokens: Tensor):
    def logits(**changes: object) -> Tensor:
        model = fresh()
        calibrate(model, calibration_tokens[:4, :64], replace(NAMED["sq-ph"], **changes))
        with torch.no_grad():
            return model(calibration_tokens[6:8, :64]).logits

    at_rope = logits(insertion=Insertion.ROPE)
    assert torch.equal(logits(insertion=Insertion.ROPE, int8_kv_cache=True), at_rope)
    plain = logits()
    cached = logits(int8_kv_cache=True)
    assert not torch.equal(cached, plain)
    assert (cached - plain).abs().mean() < 0.03 * plain.std()


def test_casting_the_model_does_not_change_scales(fresh: Fresh, calibration_tokens: Tensor):
    model = fresh()
    calibrate(model, calibration_tokens[:2, :48], NAMED["sq"])
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "scale" in name}
    model.to(torch.bfloat16)
    assert model.model.norm.weight.dtype == torch.bfloat16
    assert len(before) > 6 * 7 * 2
    for name, buffer in model.named_buffers():
        if name in before:
            assert torch.equal(buffer, before[name])
