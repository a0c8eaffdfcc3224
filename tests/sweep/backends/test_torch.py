"""The torch backend gives what transformers gives one by one, and what llama.cpp gives on the same weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.errors import InputError
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.torch import TorchBackend
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import Reference
from sweep.measure.text import measure_text

sys.path.append(str(Path(__file__).parents[2] / "converters"))
from checkpoints import make_tokenizer
from families import make

EXACT = LlamaOptions(n_threads=1, type_k="f32", type_v="f32", flash_attn="off")


@pytest.fixture(scope="module")
def backend(tiny) -> Iterator[TorchBackend]:
    backend = TorchBackend.open(tiny.directory, dtype="float32")
    yield backend
    backend.close()


@pytest.fixture(scope="module", params=["qwen3", "qwen35", "qwen35moe"])
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny) -> TorchBackend:
    """A dense model and two hybrid ones."""
    if request.param == "qwen3":
        return TorchBackend.open(tiny.directory, dtype="float32")
    directory = make(request.param, tmp_path_factory.mktemp(request.param))
    make_tokenizer(directory)
    return TorchBackend.open(directory, dtype="float32")


def some_requests(seed: int, lengths: tuple[int, ...] = (1, 3, 30, 31, 200)) -> list[ScoreRequest]:
    rng = np.random.default_rng(seed)
    tokens = lambda n: tuple(rng.integers(0, 500, n).tolist())  # noqa: E731
    requests = []
    for n in lengths:
        context = tokens(n)
        requests += [ScoreRequest(context, tokens(k)) for k in (1, 1, 2, 9)]
    rng.shuffle(requests)
    return requests


def test_texts_and_facts_are_those_of_the_gguf(tiny, backend):
    llama = LlamaBackend(tiny.gguf, EXACT)
    for text in ("The keeper counted 1,234 boats.", "Zoe\u0308 — 🙂 café", "<|im_start|>user\nHello<|im_end|>"):
        for special in (False, True):
            tokens = backend.tokenize(text, parse_special=special)
            assert tokens.tolist() == llama.tokenize(text, parse_special=special).tolist()
            assert backend.detokenize(tokens, special=True) == llama.detokenize(tokens, special=True)
    for fact in ("n_vocab", "max_length", "eos_id", "prefix_id", "add_bos", "end_ids", "chat_template"):
        assert getattr(backend, fact) == getattr(llama, fact), fact
    llama.close()


def test_scores_are_llama_cpps_on_the_same_weights(tiny, backend):
    requests = some_requests(1)
    llama = LlamaBackend(tiny.gguf, EXACT)
    seen: list[tuple[int, int]] = []
    ours = backend.loglikelihoods(requests, lambda done, total: seen.append((done, total)))
    for a, b in zip(ours, llama.loglikelihoods(requests), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
        assert a.is_greedy == b.is_greedy
    assert seen[-1] == (len(requests), len(requests))
    llama.close()


def test_perplexity_is_llama_cpps_and_the_divergence_none(tiny, backend, tmp_path):
    text = "".join(chr(97 + i * i % 26) for i in range(3000))
    llama = LlamaBackend(tiny.gguf, EXACT)
    windows = cut_windows(backend, text, n_ctx=128)
    ours = measure_text(backend, windows, write_reference=tmp_path / "r", model="tiny")
    theirs = measure_text(llama, windows, reference=Reference(tmp_path / "r"))
    assert ours.perplexity.value == pytest.approx(theirs.perplexity.value, rel=1e-5)
    assert theirs.divergence is not None
    assert theirs.divergence.kld_mean < 1e-7
    assert theirs.divergence.top1_agreement > 0.995
    llama.close()


def test_scores_of_padded_batches_are_those_of_single_requests(each):
    requests = some_requests(2)
    for request, score in zip(requests, each.loglikelihoods(requests), strict=True):
        tokens = torch.tensor([request.context + request.continuation])
        with torch.inference_mode():
            logprobs = each._model(tokens).logits[0].double().log_softmax(-1)[len(request.context) - 1 : -1]
        wanted = torch.tensor(request.continuation)
        assert score.logprob == pytest.approx(float(logprobs[torch.arange(len(wanted)), wanted].sum()), abs=1e-3)
        assert score.is_greedy == bool((logprobs.argmax(-1) == wanted).all())


def greedy(backend: TorchBackend, prompt: tuple[int, ...], n: int) -> list[int]:
    ids = torch.tensor([prompt])
    ends = sorted(backend.end_ids)
    out = backend._model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()


def test_generations_of_mixed_lengths_are_those_of_single_prompts(each):
    rng = np.random.default_rng(3)
    requests = [
        GenerationRequest(tuple(rng.integers(0, 500, n).tolist()), int(rng.integers(1, 20)))
        for n in (1, 3, 20, 21, 64, 5)
    ]
    for asked, given in zip(requests, each.generate(requests), strict=True):
        expected = greedy(each, asked.prompt, asked.max_new_tokens)
        assert list(given.tokens) == expected
        assert given.text == each.detokenize(expected)


def test_a_stop_string_ends_a_generation_of_its_own_request_alone(backend):
    rng = np.random.default_rng(7)
    tried = 0
    for _ in range(20):
        prompt = tuple(rng.integers(0, 500, 10).tolist())
        text = backend.detokenize(greedy(backend, prompt, 30))
        if "\ufffd" in text or len(text) < 12:
            continue
        stop = text[3:6]
        free, stopped = backend.generate([GenerationRequest(prompt, 30), GenerationRequest(prompt, 30, ("no", stop))])
        assert free.text == text
        assert stopped.text == text[: text.index(stop)]
        tried += 1
    assert tried >= 3


def test_few_logits_at_a_time_are_the_same_windows(backend, monkeypatch):
    tokens = np.random.default_rng(2).integers(0, 500, (3, 64), dtype=np.int32)
    whole = np.concatenate([part.logits for part in backend.windows(tokens, 20)])
    monkeypatch.setattr("sweep.backends.torch.LOGITS_BYTES", 4 * backend.n_vocab * 7)
    parts = list(backend.windows(tokens, 20, parallel=2))
    assert max(len(part.logits) for part in parts) == 7
    np.testing.assert_allclose(np.concatenate([part.logits for part in parts]), whole, atol=1e-4)


def test_what_cannot_be_done_is_refused(backend, tmp_path):
    with pytest.raises(InputError, match="longer than the context"):
        backend.loglikelihoods([ScoreRequest((1,) * 640, (1, 2))])
    with pytest.raises(InputError, match="longer than the context"):
        backend.generate([GenerationRequest((1,) * 600, 41)])
    with pytest.raises(InputError, match="beyond the model's"):
        next(backend.windows(np.zeros((1, 700), np.int32), 0))
    with pytest.raises(InputError, match="transformers cannot load it"):
        TorchBackend.open(tmp_path)


def test_speed_and_memory(backend):
    assert backend.time_prompt(64, 64) > 0
    assert backend.time_decode(4, 64) > 0
    assert backend.memory().allocated_bytes >= 4 * sum(p.numel() for p in set(backend._model.parameters()))
