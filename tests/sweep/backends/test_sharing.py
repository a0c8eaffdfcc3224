"""Sharing prefixes changes no score, for dense, mixture-of-experts and recurrent models.

Scores are compared with those of each request alone and with those of transformers, with F32 weights, an F32 cache and
no flash attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer
from families import make
from transformers import AutoModelForCausalLM

import presets
from converters.export import export, open_source
from sweep.backends import sharing_check
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.generation import MIN_FAMILY, families
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.sharing_check import SharingCheck, SharingSample
from sweep.backends.trie import plan

EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
KINDS = ("micro", "micro-moe", "qwen3moe", "qwen35", pytest.param("qwen3next", marks=pytest.mark.slow))
"""The first two models are trained, the others have random weights."""

torch.set_num_threads(1)  # tiny models: a second thread only waits for the first


@dataclass(frozen=True)
class Both:
    """The same weights in llama.cpp and in transformers."""

    gguf: Path
    backend: LlamaBackend
    hf: Any

    def logprobs(self, tokens: tuple[int, ...]) -> np.ndarray:
        with torch.no_grad():
            return torch.log_softmax(self.hf(torch.tensor([tokens])).logits[0].double(), -1).numpy()


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("kind") / "model"
    if request.param in presets.builtin_models():
        directory = presets.builtin_models()[request.param].directory
    else:
        make(request.param, directory)
        make_tokenizer(directory)
    gguf = tmp_path_factory.mktemp("gguf") / "F32.gguf"
    export(open_source(directory, "model"), {"F32": gguf}, threads=1)
    hf = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    backend = LlamaBackend(gguf, LlamaOptions(n_threads=1, n_batch=256, n_ubatch=128, slots=6, **EXACT))
    yield Both(gguf, backend, hf)
    backend.close()


def some_tokens(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    return tuple(rng.integers(10, 500, n).tolist())


def questions(both: Both) -> list[ScoreRequest]:
    """Few-shot examples, questions, choices with and without common prefixes, equal requests, prefixes of others."""
    rng = np.random.default_rng(8)
    examples = some_tokens(rng, 60)
    requests = []
    for _ in range(6):
        context = examples + some_tokens(rng, int(rng.integers(3, 25)))
        stem = some_tokens(rng, 5)
        best = int(both.logprobs(context)[-1].argmax())
        requests += [ScoreRequest(context, stem + some_tokens(rng, n)) for n in (2, 9, 3)]
        requests += [ScoreRequest(context, (best,)), ScoreRequest(context, some_tokens(rng, 1))]
    requests += [requests[2], ScoreRequest(requests[7].context[:20], some_tokens(rng, 4))]
    requests.append(ScoreRequest(requests[4].context + requests[4].continuation, some_tokens(rng, 6)))
    requests.append(ScoreRequest(some_tokens(rng, 200), some_tokens(rng, 90)))  # longer than a batch
    return [requests[i] for i in rng.permutation(len(requests))]


def sampled(backend: LlamaBackend, requests: list[ScoreRequest]) -> SharingCheck:
    """The check of the sample of a task in which each request is a question."""
    sample = SharingSample()
    sample.add(backend, requests, backend.loglikelihoods(requests), range(len(requests)))
    assert sample.check is not None
    return sample.check


def test_shared_scores_equal_those_of_single_requests_and_of_transformers(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = questions(both)
    budget = both.backend.score_budget(300)
    assert budget.copies_states == both.backend.model.is_recurrent
    made = plan(requests, budget)
    assert made.computed < made.naive / 2
    scores = both.backend.loglikelihoods(requests)
    assert any(score.is_greedy for score in scores)
    for request, score in zip(requests, scores, strict=True):
        rows = both.logprobs(request.context + request.continuation)[len(request.context) - 1 : -1]
        continuation = list(request.continuation)
        assert score.logprob == pytest.approx(rows[np.arange(len(continuation)), continuation].sum(), abs=1e-3)
        assert score.is_greedy == (rows.argmax(-1).tolist() == continuation)
    monkeypatch.setattr(sharing_check, "SHARE", 100.0)  # the sample has all questions
    check = sampled(both.backend, requests)
    assert check.requests == len(requests)
    assert check.largest_difference < 1e-4
    assert check.changed_answers == check.changed_greedy == 0


def test_a_small_cache_gives_the_same_scores(both: Both) -> None:
    requests = questions(both)
    expected = [score.logprob for score in both.backend.loglikelihoods(requests)]
    for cache_bytes, slots in ((1, 1), (1 << 21, 3)):
        options = LlamaOptions(n_threads=1, n_batch=128, n_ubatch=64, cache_bytes=cache_bytes, slots=slots, **EXACT)
        backend = LlamaBackend(both.gguf, options)
        scores = backend.loglikelihoods(requests)
        budget = backend.score_budget(289)
        backend.close()
        assert [score.logprob for score in scores] == pytest.approx(expected, abs=1e-4)
        if cache_bytes == 1:  # the cache is large enough for the longest request in any case
            assert budget.cells == 512  # 289, padded as llama.cpp does
            assert not budget.copies_states or budget.sequences == 1


def test_the_check_finds_small_differences_with_default_precision(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_check, "SHARE", 0.2)
    backend = LlamaBackend(both.gguf, LlamaOptions(n_threads=1))
    check = sampled(backend, questions(both))
    backend.close()
    assert 0 < check.requests < 29
    assert check.questions == check.requests
    assert 0 < check.largest_difference < 0.1


def test_generations_equal_those_of_transformers(both: Both) -> None:
    """More prompts than slots, two families of examples, prompts that share nothing, and different lengths."""
    rng = np.random.default_rng(9)
    blocks = [some_tokens(rng, MIN_FAMILY + 20) for _ in range(2)]
    prompts = [blocks[i % 2] + some_tokens(rng, n) for i, n in enumerate(rng.integers(1, 30, 15))]
    prompts += [some_tokens(rng, n) for n in (3, 50)]
    assert sorted(map(len, families(prompts, 6))) == [2, 7, 8]
    requests = [GenerationRequest(prompt, int(rng.integers(2, 12))) for prompt in prompts]
    ends = sorted(both.backend.end_ids)
    for request, result in zip(requests, both.backend.generate(requests), strict=True):
        with torch.no_grad():
            expected = both.hf.generate(
                torch.tensor([request.prompt]),
                max_new_tokens=request.max_new_tokens,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
        assert list(result.tokens) == expected[0, len(request.prompt) :].tolist()


def test_the_size_of_a_state_equals_its_formula(both: Both) -> None:
    """4 bytes x [(d_conv - 1)(d_inner + 2 groups x d_state) + d_state x d_inner] per linear layer."""
    config = both.hf.config
    kinds = getattr(config, "layer_types", [])
    linear = sum(kind == "linear_attention" for kind in kinds)
    expected = 0
    if linear:
        keys, values = config.linear_num_key_heads, config.linear_num_value_heads
        width, inner = config.linear_key_head_dim, values * config.linear_value_head_dim
        convolution = (config.linear_conv_kernel_dim - 1) * (inner + 2 * keys * width)
        expected = 4 * linear * (convolution + width * inner)
    assert both.backend.model.state_bytes == pytest.approx(expected, abs=0.01 * 2**20)
