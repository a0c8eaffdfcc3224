"""A backend with an int8 KV cache gives the same scores and texts as a model with a fake-quantized cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

import presets
from int8.calibrate import calibrate
from int8.kv_cache import int8_cache, int8_codecs
from int8.model import open_model
from int8.recipe import NAMED, Insertion, Recipe
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.torch import TorchBackend

RECIPES = {
    "each token": Recipe("tokens", keep=("*",), int8_kv_cache=True),
    "static": replace(NAMED["sq-ph"], insertion=Insertion.ROPE, int8_kv_cache=True),
}


@pytest.fixture(scope="module", params=[("micro", "each token"), ("micro", "static"), ("micro-moe", "each token")])
def made(request: pytest.FixtureRequest) -> tuple[TorchBackend, PreTrainedModel, Recipe]:
    name, kind = request.param
    builtin = presets.builtin_models()[name]
    model, recipe = open_model(builtin.directory, "float32"), RECIPES[kind]
    tokenizer = AutoTokenizer.from_pretrained(builtin.directory)
    ids = tokenizer(builtin.calibration.read_text()[:6_000])["input_ids"]
    calibrate(model, torch.tensor(ids[: 4 * 128]).view(4, 128), recipe)
    return TorchBackend(model, tokenizer, codecs=int8_codecs(model, recipe)), model, recipe


def test_scores_equal_those_of_a_model_with_a_fake_quantized_cache(
    made: tuple[TorchBackend, PreTrainedModel, Recipe],
) -> None:
    backend, model, _ = made
    text = [int(token) for token in backend.tokenize(presets.builtin_models()["micro"].text.read_text()[:2_000])]
    shared = tuple(text[:40])
    requests = [ScoreRequest(shared + tuple(text[i : i + 5]), tuple(text[i + 5 : i + 12])) for i in range(50, 110, 12)]
    for request, score in zip(requests, backend.loglikelihoods(requests), strict=True):
        tokens = torch.tensor([request.context + request.continuation])
        with torch.no_grad():
            rows = model(tokens[:, :-1]).logits[0].log_softmax(-1)[len(request.context) - 1 :]
        expected = rows[np.arange(len(request.continuation)), list(request.continuation)].sum()
        assert score.logprob == pytest.approx(float(expected), abs=2e-4)


def test_generations_equal_those_of_transformers_with_an_int8_cache(
    made: tuple[TorchBackend, PreTrainedModel, Recipe],
) -> None:
    backend, model, recipe = made
    prompts = [tuple(int(token) for token in backend.tokenize(text)) for text in ("The sum of", "Once there was a")]
    given = backend.generate([GenerationRequest(prompt, 12, ()) for prompt in prompts])
    for prompt, generation in zip(prompts, given, strict=True):
        settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": sorted(backend.end_ids)}
        alone = model.generate(torch.tensor([prompt]), past_key_values=int8_cache(model, recipe), **settings)
        assert generation.text == backend.detokenize(alone[0, len(prompt) :].tolist())


def test_cells_of_an_int8_cache_have_the_size_of_int8(made: tuple[TorchBackend, PreTrainedModel, Recipe]) -> None:
    backend, model, recipe = made
    plain = TorchBackend(model, backend._vocabulary.tokenizer)
    config = model.config.get_text_config()
    heads = config.num_key_value_heads * sum(not is_state for is_state in plain._cache_shape.is_state)
    assert plain._cache_shape.cell_bytes == 2 * 4 * heads * config.head_dim
    scale = 0 if recipe.name == "sq-ph" else 4
    assert backend._cache_shape.cell_bytes == 2 * heads * (config.head_dim + scale)
    assert backend._cache_shape.state_bytes == plain._cache_shape.state_bytes
