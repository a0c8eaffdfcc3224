"""The torch backend gives the same results as transformers with single requests, and as llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer
from families import make
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from converters.errors import InputError
from sweep.backends.base import GenerationRequest, ScoreRequest
from sweep.backends.generation import MIN_FAMILY
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.torch import LOGITS_BYTES, TorchBackend, TorchOptions
from sweep.backends.trie import plan
from sweep.measure.harness import make_lm
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import Reference
from sweep.measure.text_measurement import measure_text

EXACT = LlamaOptions(n_threads=1, type_k="f32", type_v="f32", flash_attn="off")


@pytest.fixture(scope="module")
def backend(tiny) -> Iterator[TorchBackend]:
    backend = TorchBackend.open(tiny.directory, dtype="float32")
    yield backend
    backend.close()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3next", "qwen35moe")]
torch.set_num_threads(1)  # tiny models: a second thread only waits for the first


@pytest.fixture(scope="module", params=["qwen3", "qwen3moe", "qwen35", *SLOW])
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny) -> TorchBackend:
    """Models with attention alone, and hybrid models."""
    options = TorchOptions(slots=6, n_batch=100)
    if request.param == "qwen3":
        return TorchBackend.open(tiny.directory, dtype="float32", options=options)
    directory = make(request.param, tmp_path_factory.mktemp(request.param))
    make_tokenizer(directory)
    return TorchBackend.open(directory, dtype="float32", options=options)


def some_requests(seed: int, lengths: tuple[int, ...] = (1, 3, 30, 31, 200)) -> list[ScoreRequest]:
    rng = np.random.default_rng(seed)
    tokens = lambda n: tuple(rng.integers(0, 500, n).tolist())  # noqa: E731
    requests = []
    for n in lengths:
        context = tokens(n)
        requests += [ScoreRequest(context, tokens(k)) for k in (1, 1, 2, 9)]
    rng.shuffle(requests)
    return requests


def test_texts_and_properties_equal_those_of_the_gguf(tiny, backend):
    llama = LlamaBackend(tiny.gguf, EXACT)
    for text in ("The keeper counted 1,234 boats.", "Zoe\u0308 — 🙂 café", "<|im_start|>user\nHello<|im_end|>"):
        for special in (False, True):
            tokens = backend.tokenize(text, parse_special=special)
            assert tokens.tolist() == llama.tokenize(text, parse_special=special).tolist()
            assert backend.detokenize(tokens, special=True) == llama.detokenize(tokens, special=True)
    for fact in ("n_vocab", "max_length", "eos_id", "prefix_id", "add_bos", "end_ids", "chat_template"):
        assert getattr(backend, fact) == getattr(llama, fact), fact
    llama.close()


def test_scores_equal_those_of_llama_cpp_with_the_same_weights(tiny, backend):
    requests = some_requests(1)
    llama = LlamaBackend(tiny.gguf, EXACT)
    seen: list[tuple[int, int]] = []
    ours = backend.loglikelihoods(requests, lambda done, total: seen.append((done, total)))
    for a, b in zip(ours, llama.loglikelihoods(requests), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
        assert a.is_greedy == b.is_greedy
    assert seen[-1] == (len(requests), len(requests))
    llama.close()


def test_perplexity_equals_that_of_llama_cpp_and_the_divergence_is_zero(tiny, backend, tmp_path):
    text = "".join(chr(97 + i * i % 26) for i in range(3000))
    llama = LlamaBackend(tiny.gguf, EXACT)
    windows = cut_windows(backend, text, n_ctx=128)
    ours = measure_text(backend, windows, write_reference=tmp_path / "r", model="tiny")
    theirs = measure_text(llama, windows, reference=Reference(tmp_path / "r"))
    assert ours.perplexity.value == pytest.approx(theirs.perplexity.value, rel=1e-5)
    assert theirs.divergence is not None
    assert theirs.divergence.figures.kld_mean < 1e-7
    assert theirs.divergence.figures.top1_agreement > 0.995
    llama.close()


def some_tokens(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    return tuple(rng.integers(10, 500, n).tolist())


def logprobs(backend: TorchBackend, tokens: tuple[int, ...]) -> np.ndarray:
    with torch.inference_mode():
        return backend._model(torch.tensor([tokens])).logits[0].double().log_softmax(-1).numpy()


def questions(backend: TorchBackend) -> list[ScoreRequest]:
    """Few-shot examples, questions, choices with and without common prefixes, equal requests, prefixes of others."""
    rng = np.random.default_rng(8)
    examples = some_tokens(rng, 60)
    requests = []
    for _ in range(6):
        context = examples + some_tokens(rng, int(rng.integers(3, 25)))
        stem = some_tokens(rng, 5)
        best = int(logprobs(backend, context)[-1].argmax())
        requests += [ScoreRequest(context, stem + some_tokens(rng, n)) for n in (2, 9, 3)]
        requests += [ScoreRequest(context, (best,)), ScoreRequest(context, some_tokens(rng, 1))]
    requests += [requests[2], ScoreRequest(requests[7].context[:20], some_tokens(rng, 4))]
    requests.append(ScoreRequest(requests[4].context + requests[4].continuation, some_tokens(rng, 6)))
    requests.append(ScoreRequest(some_tokens(rng, 150), some_tokens(rng, 90)))  # longer than a batch
    return [requests[i] for i in rng.permutation(len(requests))]


def test_scores_with_shared_prefixes_equal_those_of_single_requests(each):
    requests = questions(each)
    made = plan(requests, each.score_budget(239))
    assert made.budget.copies_states == hasattr(each._model.config, "linear_num_value_heads")
    assert made.computed < made.naive / 2
    given = each.loglikelihoods(requests)
    for request, score in zip(requests, given, strict=True):
        rows = logprobs(each, request.context + request.continuation)[len(request.context) - 1 : -1]
        continuation = list(request.continuation)
        assert score.logprob == pytest.approx(rows[np.arange(len(continuation)), continuation].sum(), abs=1e-4)
        assert score.is_greedy == (rows.argmax(-1).tolist() == continuation)
    assert any(score.is_greedy for score in given)


def test_a_small_cache_gives_the_same_scores(each):
    requests = questions(each)
    expected = [score.logprob for score in each.loglikelihoods(requests)]
    for cache_bytes, slots in ((1, 1), (1 << 20, 3)):
        options = TorchOptions(cache_bytes=cache_bytes, slots=slots, n_batch=64)
        small = TorchBackend(each._model, each._vocabulary.tokenizer, options=options)
        budget = small.score_budget(239)
        if cache_bytes == 1:  # the cache is large enough for the longest request in any case
            assert budget.cells == 239
            assert not budget.copies_states or budget.sequences == 1
        else:
            shape = small._cache_shape
            held = budget.cells * shape.cell_bytes + budget.copies_states * budget.sequences * shape.state_bytes
            assert 0.5 * cache_bytes < held <= cache_bytes or budget.cells == 239 + budget.batch
        assert [score.logprob for score in small.loglikelihoods(requests)] == pytest.approx(expected, abs=1e-4)


def test_scores_equal_those_of_lm_evals_own_model(each):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(each._model, tokenizer=each._vocabulary.tokenizer, batch_size=3, max_length=each.max_length)
    examples = "Q: What is 3 + 4? A: 7.\n\nQ: What is 5 + 5? A: 10.\n\n"
    pairs = [
        (f"{examples}Q: {question}\nA:", f" {choice}")
        for question in ("How many boats did Mara count?", "Who drank café au lait? 🙂", "What is 2 + 12?")
        for choice in ("seven boats", "seven gulls", "The old lighthouse keeper", "x")
    ]
    pairs += [("", "The old keeper"), ("你好世界" * 3, " 🙂"), ("word " * 400, "and one more")]
    instances = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    ours = make_lm(each).loglikelihood(instances, disable_tqdm=True)
    for mine, other in zip(ours, theirs.loglikelihood(instances, disable_tqdm=True), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3)
        assert mine[1] == other[1]


class Largest(TorchDispatchMode):
    """Bytes of the largest floating-point tensor that is created."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple) else (result,):
            if isinstance(made, torch.Tensor) and made.is_floating_point() and not func.is_view:
                self.nbytes = max(self.nbytes, made.nbytes)
        return result


@pytest.fixture(scope="module")
def wide(tiny) -> TorchBackend:
    """A tiny model with the size of Qwen3's vocabulary."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    return TorchBackend(Qwen3ForCausalLM(config), tiny.tokenizer)


def test_logits_of_a_large_vocabulary_are_never_in_a_single_tensor(wide):
    rng = np.random.default_rng(4)
    tokens = [some_tokens(rng, 4096) for _ in range(4)]
    requests = [ScoreRequest(row[:3900], row[3900:]) for row in tokens]
    with Largest() as largest:
        scores = wide.loglikelihoods(requests)
    all_at_once = 4 * sum(len(request.continuation) for request in requests) * wide.n_vocab
    assert all_at_once > 3 * LOGITS_BYTES
    assert LOGITS_BYTES / 2 < largest.nbytes <= LOGITS_BYTES
    with Largest() as largest:
        seen = sum(len(part.logits) for part in wide.windows(np.array([tokens[0][:400]], np.int32), 10))
    assert seen == 389
    assert LOGITS_BYTES / 2 < largest.nbytes <= LOGITS_BYTES
    with torch.inference_mode():
        states = wide._model.model(torch.tensor([tokens[0]])).last_hidden_state[0, 3899:-1]
        expected = wide._model.lm_head(states).log_softmax(-1)[torch.arange(196), torch.tensor(tokens[0][3900:])].sum()
    assert scores[0].logprob == pytest.approx(float(expected), abs=0.01)


def test_pieces_equal_those_of_llama_cpp(tiny, backend):
    llama = LlamaBackend(tiny.gguf, EXACT)
    for special in (False, True):
        for token in range(backend.n_vocab):
            assert backend._vocabulary.piece(token, special=special) == llama.model.piece(token, special=special)
    llama.close()


def greedy(backend: TorchBackend, prompt: tuple[int, ...], n: int) -> list[int]:
    ids = torch.tensor([prompt])
    ends = sorted(backend.end_ids)
    out = backend._model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()


def test_generations_of_mixed_lengths_equal_those_of_single_prompts(each):
    """More prompts than slots, two families of examples, prompts that share nothing, and different lengths."""
    rng = np.random.default_rng(9)
    blocks = [some_tokens(rng, MIN_FAMILY + 20) for _ in range(2)]
    prompts = [blocks[i % 2] + some_tokens(rng, n) for i, n in enumerate(rng.integers(1, 30, 15))]
    prompts += [some_tokens(rng, n) for n in (1, 3, 64)]
    requests = [GenerationRequest(prompt, int(rng.integers(2, 16))) for prompt in prompts]
    one_family = [GenerationRequest(blocks[0] + some_tokens(rng, n), 9) for n in (4, 40, 11, 1, 6, 30, 5, 2)]
    for group in (requests, one_family):
        for request, given in zip(group, each.generate(group), strict=True):
            expected = greedy(each, request.prompt, request.max_new_tokens)
            assert list(given.tokens) == expected
            assert given.text == each.detokenize(expected)


def test_a_stop_string_ends_only_the_generation_of_its_own_request(backend):
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


def test_windows_do_not_depend_on_the_slices_of_logits(backend, monkeypatch):
    tokens = np.random.default_rng(2).integers(0, 500, (3, 64), dtype=np.int32)
    whole = np.concatenate([part.logits for part in backend.windows(tokens, 20)])
    monkeypatch.setattr("sweep.backends.torch.LOGITS_BYTES", 4 * backend.n_vocab * 7)
    parts = list(backend.windows(tokens, 20, parallel=2))
    assert max(len(part.logits) for part in parts) == 7
    np.testing.assert_allclose(np.concatenate([part.logits for part in parts]), whole, atol=1e-4)


def test_an_unsupported_cache_is_rejected_before_any_work(tiny):
    config = Qwen3Config(
        vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=0,
    )  # fmt: skip
    sliding = TorchBackend(Qwen3ForCausalLM(config), tiny.tokenizer)
    with pytest.raises(InputError, match="qwen3: a cache with DynamicSlidingWindowLayer is not supported"):
        sliding.loglikelihoods([ScoreRequest((1, 2), (3,))])


def test_impossible_requests_are_rejected(backend, tmp_path):
    with pytest.raises(InputError, match="longer than the context"):
        backend.loglikelihoods([ScoreRequest((1,) * 640, (1, 2))])
    with pytest.raises(InputError, match="longer than the context"):
        backend.generate([GenerationRequest((1,) * 600, 41)])
    with pytest.raises(InputError, match="longer than the model's"):
        next(backend.windows(np.zeros((1, 700), np.int32), 0))
    with pytest.raises(InputError, match="at least one token of context"):
        backend.loglikelihoods([ScoreRequest((), (1,))])
    assert backend.loglikelihoods([]) == backend.generate([]) == []
    with pytest.raises(InputError, match=r"has no config\.json"):
        TorchBackend.open(tmp_path)


def test_speed_and_memory_are_measured(backend):
    assert backend.time_prompt(64, 64) > 0
    assert backend.time_decode(4, 64) > 0
    assert backend.time_prompt(16, 64, depth=32) > 0
    assert backend.time_decode(4, 64, depth=32) > 0
    assert backend.memory().allocated_bytes >= 4 * sum(p.numel() for p in set(backend._model.parameters()))
