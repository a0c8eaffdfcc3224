"""Doubling the width of a trained model."""

import pytest
import torch
from transformers import Qwen3ForCausalLM

import presets
from presets.micro.grow import grow
from presets.micro.shapes import SHAPES


@pytest.fixture(scope="module")
def micro() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(presets.builtin_models()["micro"].directory, dtype=torch.float32)


def test_the_grown_model_computes_the_same_and_can_use_its_width(micro: Qwen3ForCausalLM) -> None:
    large = SHAPES["mini"].model(micro.config.eos_token_id).float()
    grow(micro, large)
    tokens = torch.arange(1, 97).view(2, 48)
    expected = micro(tokens).logits.detach()
    found = large(tokens).logits
    assert (found - expected).abs().max() < 1e-4
    found.logsumexp(-1).sum().backward()
    first, second = large.model.layers[2].mlp.down_proj.weight.grad.chunk(2)
    assert (first - second).abs().max() > 0.1 * first.abs().max()  # the two of a pair learn different things
