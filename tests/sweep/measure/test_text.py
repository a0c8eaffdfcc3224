"""Perplexity and divergence against closed forms over transformers' logits."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
import torch

from converters.errors import InputError
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.jobs import serialization
from sweep.measure.perplexity import Windows, cut_windows
from sweep.measure.reference import Reference
from sweep.measure.summary import Positions, summarize_divergence
from sweep.measure.text_measurement import measure_text, noise_floor
from sweep.record import Record

EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
N_CTX = 128


def lines(n: int) -> str:
    rng = np.random.default_rng(0)
    words = ("boats", "gulls", "the keeper", "12 apples", "def f(x):", "café", "and then", "left", "counted")
    return " ".join(rng.choice(words, n)) + "."


@pytest.fixture(scope="module")
def backend(tiny) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1, n_batch=512, n_ubatch=256, **EXACT))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def other(make_model) -> Iterator[LlamaBackend]:
    """The variant: a model with the same shape and tokenizer and slightly different weights."""
    model = make_model(
        "other",
        n_vocab=512,
        scale=0.083,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=640,
    )
    backend = LlamaBackend(model.gguf, LlamaOptions(n_threads=1, **EXACT))
    backend.hf = model.hf  # type: ignore[attr-defined]
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def windows(backend) -> Windows:
    return cut_windows(backend, lines(600), n_ctx=N_CTX)


def hf_logprobs(hf, windows: Windows) -> np.ndarray:
    """Float64 log-probabilities of the scored rows, (n_windows, rows, n_vocab)."""
    with torch.no_grad():
        logits = hf(torch.from_numpy(windows.tokens.astype(np.int64))).logits
    return torch.log_softmax(logits[:, windows.first : -1].double(), -1).numpy()


def test_windows_are_cut_as_llama_perplexity_cuts_them(backend, windows):
    tokens = backend.tokenize(lines(600))
    n = len(tokens) // N_CTX
    assert len(tokens) % N_CTX != 0
    assert np.array_equal(windows.tokens.ravel(), tokens[: n * N_CTX])
    assert (windows.first, windows.rows_each) == (N_CTX // 2, N_CTX // 2 - 1)
    with pytest.raises(InputError, match=f"need at least {2 * N_CTX}"):
        cut_windows(backend, lines(20), n_ctx=N_CTX)
    with pytest.raises(InputError, match="longer than the model's context of 640"):
        cut_windows(backend, lines(600), n_ctx=1024)


def test_a_window_starts_with_bos_if_the_model_adds_bos(backend, monkeypatch):
    monkeypatch.setattr(backend, "add_bos", True)
    monkeypatch.setattr(backend, "bos_id", 509)
    cut = cut_windows(backend, lines(600), n_ctx=N_CTX)
    assert (cut.tokens[:, 0] == 509).all()
    assert np.array_equal(cut.text.ravel(), backend.tokenize(lines(600))[: cut.tokens.size])


def test_windows_with_a_stride_are_cut_as_llama_perplexity_cuts_them(backend, monkeypatch):
    tokens = backend.tokenize(lines(600))
    cut = cut_windows(backend, lines(600), n_ctx=N_CTX, stride=48)
    assert len(cut.tokens) == -(-(len(tokens) - N_CTX) // 48)
    assert all(np.array_equal(window, tokens[48 * i : 48 * i + N_CTX]) for i, window in enumerate(cut.tokens))
    assert (cut.first, cut.rows_each) == (N_CTX - 49, 48)
    # every token from the end of the first window on is scored once, in order
    scored = cut.tokens[:, cut.first + 1 :].ravel()
    assert np.array_equal(scored, tokens[N_CTX - 48 : N_CTX - 48 + len(scored)])
    monkeypatch.setattr(backend, "add_bos", True)
    assert np.array_equal(cut_windows(backend, lines(600), n_ctx=N_CTX, stride=48).tokens[1:], cut.tokens[1:])
    for stride in (0, N_CTX):
        with pytest.raises(InputError, match="choose 1 to 127"):
            cut_windows(backend, lines(600), n_ctx=N_CTX, stride=stride)


def test_perplexity_equals_the_closed_form_over_transformers_logits(tiny, backend, windows):
    seen: list[tuple[int, int]] = []
    result = measure_text(backend, windows, progress=lambda *at: seen.append(at)).perplexity
    logprobs = hf_logprobs(tiny.hf, windows)
    targets = windows.tokens[:, windows.first + 1 :, None]
    nll = -np.take_along_axis(logprobs, targets.astype(np.int64), -1)[..., 0]
    assert result.tokens == nll.size
    assert result.value == pytest.approx(np.exp(nll.mean()), rel=1e-6)
    x = nll.ravel()
    stderr = np.sqrt(((x**2).mean() - x.mean() ** 2) / (len(x) - 1)) * np.exp(x.mean())
    assert result.stderr == pytest.approx(stderr, rel=1e-5)
    assert result.window_nll == pytest.approx(nll.mean(1), abs=1e-6)
    spread = scipy.stats.sem(nll.mean(1)) * result.value
    assert result.low < result.value < result.high
    assert result.high - result.low == pytest.approx(2 * 1.96 * spread, rel=0.3)
    assert seen == [(i + 1, len(nll)) for i in range(len(nll))]


def test_divergence_equals_scipys_over_transformers_logits(tiny, backend, other, windows, tmp_path):
    path = tmp_path / "reference"
    measure_text(backend, windows, write_reference=path, model="F32")
    result = measure_text(other, windows, reference=Reference(path)).divergence
    figures = result.figures
    p, q = hf_logprobs(tiny.hf, windows), hf_logprobs(other.hf, windows)
    kld = scipy.stats.entropy(np.exp(p), np.exp(q), axis=-1)
    assert figures.kld_mean == pytest.approx(kld.mean(), rel=1e-5)
    assert figures.kld_max == pytest.approx(kld.max(), rel=1e-4)
    assert figures.kld_p99_9 == pytest.approx(np.quantile(kld, 0.999), rel=1e-4)
    same = p.argmax(-1) == q.argmax(-1)
    assert figures.top1_agreement == pytest.approx(same.mean(), abs=1 / kld.size)
    assert 0.0 < figures.top1_agreement < 1.0
    assert result.window_kld == pytest.approx(kld.mean(1), rel=1e-4)
    bootstrap = scipy.stats.bootstrap((kld.mean(1),), np.mean, n_resamples=20_000, rng=np.random.default_rng(0))
    n = len(kld)
    assert figures.kld_stderr == pytest.approx(bootstrap.standard_error * np.sqrt(n / (n - 1)), rel=0.03)
    interval = np.quantile(bootstrap.bootstrap_distribution, [0.025, 0.975])
    assert [figures.kld_low, figures.kld_high] == pytest.approx(interval, rel=0.03)
    assert figures.sampling_stderr == 0.0
    # figures of the positions other than the divergence
    targets = windows.tokens[:, windows.first + 1 :, None].astype(np.int64)
    nll, base = (-np.take_along_axis(x, targets, -1)[..., 0].ravel() for x in (q, p))
    assert figures.perplexity_reference == pytest.approx(np.exp(base.mean()), rel=1e-5)
    assert figures.perplexity_log_ratio == pytest.approx((nll - base).mean(), abs=1e-5)
    assert figures.perplexity_log_ratio_stderr == pytest.approx(scipy.stats.sem(nll - base), rel=1e-4)
    assert figures.perplexity_correlation == pytest.approx(scipy.stats.pearsonr(nll, base).statistic, rel=1e-4)
    delta = np.exp(-nll) - np.exp(-base)
    assert figures.delta_p_mean == pytest.approx(delta.mean(), abs=1e-7)
    assert figures.delta_p_stderr == pytest.approx(scipy.stats.sem(delta), rel=1e-4)
    assert figures.delta_p_rms == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-4)
    assert figures.delta_p_percentiles["25"] == pytest.approx(np.quantile(delta, 0.25), abs=1e-6)


def test_the_divergence_is_grouped_by_the_references_confidence():
    rng = np.random.default_rng(0)
    shape = (4, 50)
    confidence, kld, same = rng.random(shape), rng.random(shape), rng.random(shape) < 0.7
    nll = rng.random(shape)
    confidence[0, 0], confidence[confidence < 0.25] = 1.0, 0.25
    figures = summarize_divergence(Positions(kld, np.zeros(shape), same, confidence, nll, nll[::-1])).figures
    buckets = figures.by_confidence
    assert [(b.low, b.high) for b in buckets] == [(0.25, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 0.99), (0.99, 1.0)]
    assert sum(bucket.tokens for bucket in buckets) == kld.size
    assert sum(bucket.tokens * bucket.kld_mean for bucket in buckets) == pytest.approx(kld.sum())
    middle = (confidence >= 0.5) & (confidence < 0.75)
    assert buckets[1].kld_mean == pytest.approx(kld[middle].mean())
    assert buckets[1].top1_agreement == pytest.approx(same[middle].mean())


def test_a_record_read_from_json_has_all_figures(backend, windows, tmp_path):
    measure_text(backend, windows, write_reference=tmp_path / "r")
    figures = measure_text(backend, windows, reference=Reference(tmp_path / "r")).divergence.figures
    record = Record("Q8_0", "gguf", "ok", divergence=figures)
    assert serialization.from_json(json.loads(json.dumps(record.to_json())), Record) == record
    assert [name for name, value in vars(figures).items() if value in (None, {}, ())] == ["noise_floor"]


def test_the_divergence_of_a_model_from_itself_is_zero(backend, windows, tmp_path):
    path = tmp_path / "reference"
    measure_text(backend, windows, write_reference=path)
    reference = Reference(path)
    result = measure_text(backend, windows, reference=reference)
    figures = result.divergence.figures
    assert 0.0 <= figures.kld_max < 1e-12
    assert figures.top1_agreement == 1.0
    assert figures.perplexity_ratio == pytest.approx(1.0, abs=1e-6)
    assert figures.perplexity_correlation == pytest.approx(1.0)
    floor = noise_floor(backend, windows, reference, n_windows=3)
    assert floor.windows == 3
    assert 0.0 <= floor.kld_mean < 1e-9


def test_the_noise_floor_with_default_options_is_small(tiny, windows, tmp_path):
    """With llama.cpp's defaults the batch shape changes rounding; the floor is far below any quant's divergence."""
    with_defaults = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1))
    measure_text(with_defaults, windows, write_reference=tmp_path / "reference")
    floor = noise_floor(with_defaults, windows, Reference(tmp_path / "reference"))
    with_defaults.close()
    assert 0.0 <= floor.kld_mean < 1e-5


def test_logits_that_are_not_finite_are_rejected(backend, windows, monkeypatch):
    real = backend.windows

    def damaged(*args, **kwargs):
        for part in real(*args, **kwargs):
            part.logits[3, 5] = np.nan
            yield part

    monkeypatch.setattr(backend, "windows", damaged)
    with pytest.raises(InputError, match="window 0: the model's logits are not finite numbers"):
        measure_text(backend, windows)
