"""The llama.cpp backend gives the same results as transformers with the same float32 weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from converters.errors import InputError
from converters.llamacpp.batch import DecodeError
from converters.llamacpp.model import ContextOptions, Model
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.logits import log_normalizers

EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
TEXTS = (
    "The keeper counted 1,234 boats.",
    "  two  blanks\n\n\tand a tab \n",
    "def f(x):\n    return x**2  # 平方",
    "Zoe\u0308 a\u0301 e\u0301 — 🙂👩‍💻 café naïve",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "null \x00 byte",
)


@pytest.fixture(scope="module")
def exact(tiny) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1, n_batch=256, n_ubatch=128, slots=5, **EXACT))
    yield backend
    backend.close()


def hf_logits(tiny, tokens) -> np.ndarray:
    with torch.no_grad():
        return tiny.hf(torch.tensor([list(map(int, tokens))])).logits[0].numpy()


def hf_logprobs(tiny, tokens) -> np.ndarray:
    return torch.log_softmax(torch.from_numpy(hf_logits(tiny, tokens)).double(), -1).numpy()


def random_tokens(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    return tuple(rng.integers(0, 500, n).tolist())


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_and_text_equal_those_of_the_hf_tokenizer(tiny, exact, text):
    expected = tiny.tokenizer.encode(text, add_special_tokens=False)
    assert exact.tokenize(text, parse_special=True).tolist() == expected
    for special in (False, True):
        assert exact.detokenize(expected, special=special) == tiny.tokenizer.decode(
            expected, skip_special_tokens=not special
        )


def test_special_tokens_in_a_text_are_plain_text_by_default(tiny, exact):
    plain = exact.tokenize("<|im_end|>").tolist()
    assert len(plain) > 1
    assert exact.detokenize(plain) == "<|im_end|>"
    assert exact.tokenize("<|im_end|>", parse_special=True).tolist() == [tiny.tokenizer.eos_token_id]


def test_vocabulary_and_limits_are_those_of_the_model(tiny, exact):
    assert exact.n_vocab == tiny.hf.config.vocab_size
    assert exact.max_length == tiny.hf.config.max_position_embeddings
    assert exact.eos_id == exact.prefix_id == tiny.tokenizer.eos_token_id
    assert {tiny.tokenizer.eos_token_id, tiny.tokenizer.pad_token_id} == exact.end_ids
    assert exact.chat_template == tiny.tokenizer.chat_template
    assert exact.model.n_params == tiny.hf.num_parameters()
    assert exact.model.size_bytes == 4 * exact.model.n_params


def test_logits_of_packed_sequences_equal_those_of_transformers(tiny):
    rng = np.random.default_rng(1)
    prompts = [random_tokens(rng, n) for n in (7, 60, 33)]
    with Model(tiny.gguf) as model, model.context(ContextOptions(n_ctx=512, n_seq_max=3, n_threads=1, **EXACT)) as ctx:
        logits = ctx.decode(
            np.concatenate(prompts),
            np.concatenate([np.arange(len(p)) for p in prompts]),
            np.repeat(np.arange(3), [len(p) for p in prompts]),
            np.ones(100, bool),
        )
        assert logits.dtype == np.float32
        expected = np.concatenate([hf_logits(tiny, p) for p in prompts])
        assert np.abs(logits - expected).max() < 1e-3


def test_a_batch_larger_than_n_batch_never_reaches_llama_cpp(tiny):
    with Model(tiny.gguf) as model, model.context(ContextOptions(n_ctx=512, n_batch=64, n_threads=1)) as ctx:
        n = ctx.n_batch + 1
        with pytest.raises(DecodeError, match=f"a batch has {n} tokens"):
            ctx.decode(np.zeros(n), np.arange(n), np.zeros(n), np.zeros(n, bool))
        with pytest.raises(DecodeError, match="invalid token"):
            ctx.decode(np.array([model.n_vocab]), np.zeros(1), np.zeros(1), np.ones(1, bool))
    with Model(tiny.gguf) as model, pytest.raises(InputError, match="65 sequences needs a batch"):
        model.context(ContextOptions(n_ctx=512, n_batch=64, n_seq_max=65, n_threads=1))


def test_a_failed_load_names_the_file_and_llama_cpps_reason(tiny, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Model(tmp_path / "absent.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.gguf.read_bytes()[:20000])
    with pytest.raises(InputError, match=r"cut\.gguf.*llama\.cpp cannot load this file: \S+"):
        Model(cut)
    with Model(tiny.gguf) as model, pytest.raises(InputError, match="quantized V cache"):
        model.context(ContextOptions(n_ctx=256, type_v="q8_0", flash_attn="off"))


def test_windows_equal_transformers_logits_in_every_batch_shape(tiny, exact):
    tokens = np.random.default_rng(2).integers(0, 500, (5, 64), dtype=np.int32)
    expected = [hf_logits(tiny, w)[20:63] for w in tokens]
    long_tokens = np.random.default_rng(3).integers(
        0, 500, (2, 512), dtype=np.int32
    )  # each window has two batches of 256
    cases = [(tokens, expected, 20, parallel) for parallel in (None, 1, 3)]
    cases.append((long_tokens, [hf_logits(tiny, w)[256:511] for w in long_tokens], 256, None))
    cases.append((long_tokens, [hf_logits(tiny, w)[100:511] for w in long_tokens], 100, None))
    for windows, logits, first, parallel in cases:
        seen = [np.full_like(rows, np.nan) for rows in logits]
        for part in exact.windows(windows, first, parallel=parallel):
            seen[part.window][part.start - first : part.start - first + len(part.logits)] = part.logits
        for got, want in zip(seen, logits, strict=True):
            assert np.abs(got - want).max() < 1e-3


def test_log_normalizers_equal_logsumexp():
    logits = (np.random.default_rng(0).normal(size=(5, 200_000)) * 8).astype(np.float32)
    expected = torch.logsumexp(torch.from_numpy(logits).double(), -1).numpy()
    assert np.abs(log_normalizers(logits) - expected).max() < 1e-6


def test_loglikelihoods_equal_those_of_transformers(tiny, exact):
    rng = np.random.default_rng(4)
    requests = []
    for n_context in (1, 2, 30, 77, 300, 600):
        context = random_tokens(rng, n_context)
        best = int(hf_logits(tiny, context)[-1].argmax())
        requests += [ScoreRequest(context, random_tokens(rng, n)) for n in (1, 1, 5, 12, 40)]
        requests += [ScoreRequest(context, (best,)), ScoreRequest(context, (best, *random_tokens(rng, 3)))]
    rng.shuffle(requests)
    seen: list[tuple[int, int]] = []
    scores = exact.loglikelihoods(requests, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(requests), len(requests))
    assert any(s.is_greedy for s in scores)
    for request, score in zip(requests, scores, strict=True):
        logprobs = hf_logprobs(tiny, request.context + request.continuation)[len(request.context) - 1 : -1]
        continuation = list(request.continuation)
        assert score.logprob == pytest.approx(logprobs[np.arange(len(continuation)), continuation].sum(), abs=1e-3)
        assert score.is_greedy == (logprobs.argmax(-1).tolist() == continuation)


def test_a_context_can_have_more_continuations_than_there_are_sequences(tiny, exact):
    context = (5, 6, 7)
    requests = [ScoreRequest(context, (i, i + 1)) for i in range(300)]
    scores = exact.loglikelihoods(requests)
    for i in (0, 255, 256, 299):
        logprobs = hf_logprobs(tiny, (*context, i))
        assert scores[i].logprob == pytest.approx(logprobs[2, i] + logprobs[3, i + 1], abs=1e-3)


def test_scores_do_not_depend_on_the_logits_per_call(exact, monkeypatch):
    rng = np.random.default_rng(5)
    requests = [ScoreRequest(random_tokens(rng, 20), random_tokens(rng, 9)) for _ in range(20)]
    whole = [s.logprob for s in exact.loglikelihoods(requests)]
    monkeypatch.setattr("sweep.backends.llama.LOGITS_BYTES", 4 * exact.n_vocab * 7)
    assert [s.logprob for s in exact.loglikelihoods(requests)] == pytest.approx(whole, abs=1e-3)


def test_requests_that_cannot_be_scored_are_rejected(exact):
    with pytest.raises(InputError, match="at least one token"):
        exact.loglikelihoods([ScoreRequest((), (1,))])
    with pytest.raises(InputError, match="longer than the context"):
        exact.loglikelihoods([ScoreRequest((1,) * 640, (1, 2))])
    with pytest.raises(InputError, match="longer than the context"):
        exact.generate([GenerationRequest((1,) * 600, 41)])


def hf_greedy(tiny, prompt: tuple[int, ...], n: int) -> list[int]:
    with torch.no_grad():
        out = tiny.hf.generate(
            torch.tensor([prompt]),
            max_new_tokens=n,
            do_sample=False,
            eos_token_id=[tiny.tokenizer.eos_token_id, tiny.tokenizer.pad_token_id],
            pad_token_id=tiny.tokenizer.pad_token_id,
        )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("shared", [(), tuple(range(40, 70))])
def test_generations_equal_those_of_transformers_token_for_token(tiny, exact, shared):
    rng = np.random.default_rng(6)
    # more requests than slots, prompts longer than a batch, mixed lengths: tests refilling and divided prompts
    lengths = (1, 3, 20, 21, 64, 100, 270, 5, 9, 33, 2, 50)
    requests = [GenerationRequest(shared + random_tokens(rng, n), int(rng.integers(1, 40))) for n in lengths]
    results = exact.generate(requests)
    for request, result in zip(requests, results, strict=True):
        expected = hf_greedy(tiny, request.prompt, request.max_new_tokens)
        assert list(result.tokens) == expected
        assert result.text == tiny.tokenizer.decode(expected, skip_special_tokens=True)


def test_a_stop_string_split_over_tokens_ends_the_generation(tiny, exact):
    rng = np.random.default_rng(7)
    tried = 0
    for _ in range(20):
        prompt = random_tokens(rng, 10)
        tokens = hf_greedy(tiny, prompt, 30)
        text = tiny.tokenizer.decode(tokens, skip_special_tokens=True)
        if "\ufffd" in text or len(text) < 12:
            continue
        cut = len(tiny.tokenizer.decode(tokens[:3], skip_special_tokens=True))
        stop = text[cut - 1 : cut + 1]  # the last character of one token and the first of the next
        result = exact.generate([GenerationRequest(prompt, 30, ("never this", stop))])[0]
        assert result.text == text[: text.index(stop)]
        assert len(result.tokens) <= 4
        tried += 1
    assert tried >= 3


def test_memory_covers_the_weights_and_the_cache(tiny, exact):
    exact.time_prompt(512, 512)
    memory = exact.memory()
    # 512 cells, 2 layers, 2 heads of 16, K and V in f32; buffers are printed to 0.01 MiB
    assert memory.allocated_bytes >= exact.model.size_bytes + 512 * 2 * 2 * 16 * 2 * 4 - 2 * 10486
    assert exact.model.cache_bytes_per_cell("f32", "f32") == 2 * 2 * 16 * 2 * 4
    assert exact.time_decode(4, 512) > 0
