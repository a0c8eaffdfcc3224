"""Attention on int8 Q, K and V compared with float64 attention; the int8 cache compared with fake-quant."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from int8.arithmetic import Quantizer, dequantize, quantize, scale_and_zero_point
from int8.attention import attention_product
from int8.calibrate import calibrate
from int8.kv_cache import Int8CacheLayer, int8_cache
from int8.real_int8 import to_int8
from int8.recipe import NAMED, Insertion, Recipe, Scales

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
ROPE = replace(NAMED["sq-ph-dyn"], name="rope", insertion=Insertion.ROPE)


def random(seed: int, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.4
    return (x * torch.arange(1, shape[1] + 1)[:, None, None]).to(DEVICE)


def quantizer(x: Tensor, scales: Scales, symmetric: bool) -> Quantizer:
    """The quantizer for x [batch, heads, tokens, width]."""
    over = {Scales.TENSOR: (0, 1, 2, 3), Scales.HEAD: (0, 2, 3), Scales.CHANNEL: (0, 2)}[scales]
    low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
    shape = (low.shape[1], low.shape[3])
    return Quantizer(*scale_and_zero_point(low.reshape(shape), high.reshape(shape), symmetric))


def to_ints(x: Tensor, by: Quantizer) -> Tensor:
    return quantize(x, by.scale[:, None], by.zero_point[:, None])


def float_attention(ints, quantizers, seen: Tensor | None, scaling: float) -> Tensor:
    """Attention of the dequantized integers by its definition, float64 [batch, queries, heads, width]."""
    q, k, v = (
        dequantize(x.double(), by.scale[:, None], by.zero_point[:, None]).double()
        for x, by in zip(ints, quantizers, strict=True)
    )
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = q @ k.transpose(2, 3) * scaling
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


KINDS = [
    (Scales.TENSOR, Scales.CHANNEL, False), (Scales.HEAD, Scales.HEAD, False), (Scales.HEAD, Scales.TENSOR, True)
]  # fmt: skip


def inputs(query_key: Scales, value: Scales, symmetric: bool, queries: int, keys: int, width: int = 32):
    tensors = (random(0, 2, 4, queries, width) / 8, random(1, 2, 2, keys, width) / 8, random(2, 2, 2, keys, width))
    kinds = (query_key, query_key, value)
    quantizers = [quantizer(x, kind, symmetric) for x, kind in zip(tensors, kinds, strict=True)]
    return tensors, [to_ints(x, by) for x, by in zip(tensors, quantizers, strict=True)], quantizers


def masks(queries: int, keys: int) -> dict[str, Tensor | None]:
    """Masks of visible keys. In the last one, the first sequence has two tokens of left padding."""
    causal = torch.ones(queries, keys, dtype=torch.bool, device=DEVICE).tril(keys - queries)
    padded = causal.repeat(2, 1, 1, 1)
    padded[0, ..., :2] = False
    padded[0, 0, 0, 0] = True  # a query must see at least one key
    padded[0, 0, 1, 1] = True
    return {"all": None, "causal": causal, "padded": padded}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("seen", ["all", "causal", "padded"])
def test_the_product_equals_float64_attention_of_the_dequantized_values(kind, seen):
    _, ints, quantizers = inputs(*kind, 37, 37)
    mask = masks(37, 37)[seen]
    expected = float_attention(ints, quantizers, mask, 0.2)
    given = None if seen == "causal" else mask
    found = attention_product(*ints, tuple(quantizers), given, 0.2, seen == "causal")
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    if seen == "padded":
        added = torch.zeros(mask.shape, device=DEVICE).masked_fill(~mask, torch.finfo(torch.float32).min)
        found = attention_product(*ints, tuple(quantizers), added, 0.2, False)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("seen", ["all", "causal", "padded"])
def test_the_kernel_equals_the_product_in_torch(kind, seen):
    pytest.importorskip("triton")
    from int8.kernels import attention

    tensors, ints, quantizers = inputs(*kind, 45, 45)
    mask = masks(45, 45)[seen]
    expected = float_attention(ints, quantizers, mask, 0.2)
    for x, q, by in zip(tensors, ints, quantizers, strict=True):
        assert torch.equal(attention.quantize_heads(x, by), q)
        moved = x.transpose(1, 2).contiguous().transpose(1, 2)  # the memory layout of a projection's output
        assert torch.equal(attention.quantize_heads(moved, by), q)
    given = mask if seen == "padded" else None
    found = attention.attention(*ints, tuple(quantizers), given, 0.2, seen == "causal", torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_queries_after_a_prefix_attend_to_the_prefix():
    pytest.importorskip("triton")
    from int8.kernels import attention

    _, ints, quantizers = inputs(*KINDS[1], 9, 41)
    mask = masks(9, 41)["padded"]
    expected = float_attention(ints, quantizers, mask, 0.2)
    for product in (attention_product(*ints, tuple(quantizers), mask, 0.2, False),
                    attention.attention(*ints, tuple(quantizers), mask, 0.2, False, torch.float32)):  # fmt: skip
        torch.testing.assert_close(product.double(), expected, rtol=1e-4, atol=1e-4)


def test_heads_too_wide_to_be_exact_are_rejected():
    _, ints, quantizers = inputs(*KINDS[1], 2, 2, width=264)
    with pytest.raises(ValueError, match="264"):
        attention_product(*ints, tuple(quantizers), None, 1.0, False)


@pytest.mark.parametrize("value", [Scales.TENSOR, Scales.CHANNEL, Scales.HEAD])
@torch.no_grad()
def test_a_model_with_int8_attention_agrees_with_fake_quant(fresh, calibration_tokens, value):
    recipe = replace(ROPE, value=value, int8_attention=True)
    model = fresh()
    calibrate(model, calibration_tokens[:4], recipe)
    prompts = calibration_tokens[:2, :64]
    seen = torch.ones_like(prompts)
    seen[0, :5] = 0
    fake = [model(prompts).logits, model(prompts, attention_mask=seen).logits]
    to_int8(model, recipe)
    real = [model(prompts).logits, model(prompts, attention_mask=seen).logits]
    for ours, theirs, where in zip(real, fake, (seen >= 0, seen > 0), strict=True):
        difference = (ours.softmax(-1) - theirs.softmax(-1)).abs().sum(-1)[where].mean()
        assert 0 < difference < 0.01  # another order of sums changes a few rounded values


CACHED = [replace(ROPE, int8_kv_cache=True), Recipe("cache alone", keep=("*",), int8_kv_cache=True)]


@pytest.mark.parametrize("recipe", CACHED, ids=lambda recipe: recipe.name)
@torch.no_grad()
def test_generation_with_an_int8_cache_equals_that_of_the_fake_quant_model(fresh, calibration_tokens, recipe):
    model = fresh()
    calibrate(model, calibration_tokens[:4], recipe)
    prompts = calibration_tokens[:2, :48]
    whole = model(prompts).logits[:, 40:]
    cache = int8_cache(model, recipe)
    model(prompts[:, :40], past_key_values=cache)
    parts = [model(prompts[:, i : i + 1], past_key_values=cache).logits for i in range(40, 48)]
    difference = (torch.cat(parts, 1).softmax(-1) - whole.softmax(-1)).abs().sum(-1)
    assert difference.mean() < 0.01
    assert cache.get_seq_length() == 48
    held = sum(layer.nbytes for layer in cache.layers)
    full = DynamicCache(config=model.config)
    model(prompts, past_key_values=full)
    floats = sum(layer.keys.nbytes + layer.values.nbytes for layer in full.layers)
    assert held < 0.4 * floats  # a quarter of float32, plus scales


def test_an_int8_cache_can_be_cropped_copied_and_reordered():
    layer = Int8CacheLayer()
    keys, values = random(3, 2, 2, 6, 32), random(4, 2, 2, 6, 32)
    layer.update(keys, values)
    layer.crop(-2)
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0, 2], device=DEVICE))
    layer.reorder_cache(torch.tensor([1, 0], device=DEVICE))
    new = random(5, 2, 2, 1, 32)
    found, _ = layer.update(new, new)
    expected = torch.cat((keys[:, :, :4].flip(0), new), 2)
    step = expected.abs().amax(-1, keepdim=True) / 127
    assert ((found - expected).abs() <= 0.51 * step).all()
    layer.reset()
    assert layer.get_seq_length() == 0
    found, _ = layer.update(new, new)
    assert found.shape == new.shape


@torch.no_grad()
def test_generate_accepts_the_int8_cache_in_a_model_with_recurrent_layers(fresh, calibration_tokens):
    model = fresh("micro-moe")
    recipe = CACHED[1]
    calibrate(model, calibration_tokens[:2], recipe)
    cache = int8_cache(model, recipe)
    kinds = {type(layer).__name__ for layer in cache.layers}
    assert kinds == {"Int8CacheLayer", "LinearAttentionLayer"}
    prompt = calibration_tokens[:1, :20] % model.config.get_text_config().vocab_size
    settings = {"max_new_tokens": 8, "do_sample": False}
    cached = model.generate(prompt, past_key_values=cache, **settings)
    again = model.generate(prompt, past_key_values=DynamicCache(config=model.config), **settings)
    assert torch.equal(cached, again)  # fake-quant rounds as the cache does
