"""Perplexity and divergence against closed forms over transformers' logits, and the reference file's promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from converters.errors import InputError
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.logits import log_normalizers
from sweep.measure import reference as reference_module
from sweep.measure.divergence import row_divergence
from sweep.measure.perplexity import Windows, cut_windows
from sweep.measure.reference import HEAD, SAMPLED_ROW, Reference, ReferenceWriter, sample_row
from sweep.measure.text import measure_text, noise_floor

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
    """The same shape and tokenizer, weights a little off: the variant."""
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


def test_windows_are_cut_as_llama_perplexity_cuts(backend, windows):
    tokens = backend.tokenize(lines(600))
    n = len(tokens) // N_CTX
    assert len(tokens) % N_CTX != 0
    assert np.array_equal(windows.tokens.ravel(), tokens[: n * N_CTX])
    assert (windows.first, windows.rows_each) == (N_CTX // 2, N_CTX // 2 - 1)
    with pytest.raises(InputError, match=f"need at least {2 * N_CTX}"):
        cut_windows(backend, lines(20), n_ctx=N_CTX)
    with pytest.raises(InputError, match="longer than the model's 640"):
        cut_windows(backend, lines(600), n_ctx=1024)


def test_a_window_starts_with_bos_where_the_model_adds_one(backend, monkeypatch):
    monkeypatch.setattr(backend, "add_bos", True)
    monkeypatch.setattr(backend, "bos_id", 509)
    cut = cut_windows(backend, lines(600), n_ctx=N_CTX)
    assert (cut.tokens[:, 0] == 509).all()


def test_perplexity_is_the_closed_form_over_transformers_logits(tiny, backend, windows):
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
    assert seen == [(i + 1, len(nll)) for i in range(len(nll))]


def test_divergence_is_scipys_over_transformers_logits(tiny, backend, other, windows, tmp_path):
    path = tmp_path / "reference"
    measure_text(backend, windows, write_reference=path, model="F32")
    result = measure_text(other, windows, reference=Reference(path)).divergence
    p, q = hf_logprobs(tiny.hf, windows), hf_logprobs(other.hf, windows)
    kld = scipy.stats.entropy(np.exp(p), np.exp(q), axis=-1)
    assert result.kld_mean == pytest.approx(kld.mean(), rel=1e-5)
    assert result.kld_max == pytest.approx(kld.max(), rel=1e-4)
    assert result.kld_p99_9 == pytest.approx(np.quantile(kld, 0.999), rel=1e-4)
    assert result.top1_agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean(), abs=1 / kld.size)
    assert 0.0 < result.top1_agreement < 1.0
    assert result.window_kld == pytest.approx(kld.mean(1), rel=1e-4)
    bootstrap = scipy.stats.bootstrap((kld.mean(1),), np.mean, n_resamples=20_000, rng=np.random.default_rng(0))
    n = len(kld)
    assert result.kld_stderr == pytest.approx(bootstrap.standard_error * np.sqrt(n / (n - 1)), rel=0.03)
    assert result.sampling_stderr == 0.0


def test_a_model_does_not_diverge_from_itself(backend, windows, tmp_path):
    path = tmp_path / "reference"
    measure_text(backend, windows, write_reference=path)
    reference = Reference(path)
    result = measure_text(backend, windows, reference=reference)
    assert 0.0 <= result.divergence.kld_max < 1e-12
    assert result.divergence.top1_agreement == 1.0
    floor = noise_floor(backend, windows, reference, n_windows=3)
    assert floor.windows == 3
    assert 0.0 <= floor.kld_mean < 1e-9


def test_the_noise_floor_is_of_another_batch_shape(tiny, windows, tmp_path):
    """Under llama.cpp's defaults the batch shape moves floats; the floor sees it and is far below any quant's loss."""
    with_defaults = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1))
    measure_text(with_defaults, windows, write_reference=tmp_path / "reference")
    floor = noise_floor(with_defaults, windows, Reference(tmp_path / "reference"))
    with_defaults.close()
    assert 0.0 <= floor.kld_mean < 1e-5


def heavy_tailed(rng: np.random.Generator, n: int, n_vocab: int) -> np.ndarray:
    return (rng.normal(size=(n, n_vocab)) * 1.5).astype(np.float32)


def test_the_sampled_reference_is_unbiased_and_states_its_error():
    rng = np.random.default_rng(0)
    n_vocab, n = 8192, 6
    p_logits = heavy_tailed(rng, n, n_vocab)
    q_logits = p_logits + rng.normal(scale=0.3, size=p_logits.shape).astype(np.float32)
    p, z = scipy.special.log_softmax(p_logits.astype(np.float64), -1), log_normalizers(q_logits)
    q = scipy.special.log_softmax(q_logits.astype(np.float64), -1)
    exact = scipy.stats.entropy(np.exp(p), np.exp(q), axis=-1)
    draws, variances = [], []
    for seed in range(150):
        rows = np.stack([sample_row(row, np.random.default_rng((seed, i))) for i, row in enumerate(p)])
        assert rows["tail_mass"].min() > 0.2  # most of what matters lies in the sampled part
        result = row_divergence(rows, q_logits, z)
        draws.append(result.kld)
        variances.append(result.variance)
    draws = np.array(draws)
    error = draws.mean(0) - exact
    assert np.abs(error / (draws.std(0) / np.sqrt(len(draws)))).max() < 4.0
    assert np.abs(draws.mean() / exact.mean() - 1) < 0.003
    assert np.sqrt(np.mean(variances, 0)) == pytest.approx(draws.std(0, ddof=1), rel=0.25)
    assert (result.same_top == (p.argmax(-1) == q.argmax(-1))).all()


def test_a_large_vocabulary_goes_through_the_file(tmp_path):
    rng = np.random.default_rng(1)
    n_vocab = 4096
    windows = Windows(rng.integers(0, n_vocab, (3, 10), dtype=np.int32), 4)
    logits = heavy_tailed(rng, 3 * windows.rows_each, n_vocab)
    normalizers = log_normalizers(logits)
    path = tmp_path / "reference"
    with ReferenceWriter(path, windows, n_vocab=n_vocab, model="BF16") as writer:
        for at in range(0, len(logits), 5):
            writer.append(logits[at : at + 5], normalizers[at : at + 5])
    reference = Reference(path)
    rows = reference.rows(1, windows.first + 2, 3)
    assert rows.dtype == SAMPLED_ROW
    assert rows["head_tokens"][:, 0].tolist() == logits[7:10].argmax(1).tolist()
    logprobs = logits[7:10] - normalizers[7:10, None]
    assert rows["head_logprobs"] == pytest.approx(-np.sort(-logprobs, 1)[:, :HEAD], abs=1e-6)
    assert rows["tail_mass"] == pytest.approx(1 - np.exp(rows["head_logprobs"].astype(float)).sum(1), abs=1e-6)
    assert not set(rows["head_tokens"][0]) & set(rows["tail_tokens"][0])
    own = row_divergence(rows, logits[7:10], normalizers[7:10])
    assert own.kld.max() < 1e-12
    assert own.same_top.all()


def test_a_reference_appears_only_when_it_is_whole(backend, windows, tmp_path):
    path = tmp_path / "reference"

    def write(interrupted: bool) -> None:
        with ReferenceWriter(path, windows, n_vocab=512, model="") as writer:
            writer.append(np.zeros((5, 512), np.float32), np.zeros(5))
            if interrupted:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(interrupted=True)
    with pytest.raises(ValueError, match="5 rows were given"):
        write(interrupted=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot write the reference"):
        measure_text(backend, windows, write_reference=Path("/proc/reference"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_line(backend, windows, tmp_path, monkeypatch):
    real = open
    monkeypatch.setattr("builtins.open", lambda p, mode="r": real("/dev/full" if str(p).endswith(".part") else p, mode))
    with pytest.raises(InputError, match="No space left on device"):
        measure_text(backend, windows, write_reference=tmp_path / "reference")
    assert list(tmp_path.iterdir()) == []


def test_references_that_do_not_fit_are_refused(backend, windows, tmp_path):
    path = tmp_path / "reference"
    measure_text(backend, windows, write_reference=path)
    whole = path.read_bytes()
    reference = Reference(path)
    with pytest.raises(InputError, match="another text"):
        measure_text(backend, windows.head(2), reference=reference)
    with pytest.raises(InputError, match="vocabulary of 512, this model 600"):
        reference.require(windows, 600)
    start = reference_module.MAGIC + len(json.dumps(reference.header.__dict__)).to_bytes(4, "little")
    hostile = json.dumps({**reference.header.__dict__, "windows": 1 << 60}).encode()
    for damaged, words in (
        (whole[:-1], "bytes where its header asks"),
        (whole + b"\0", "bytes where its header asks"),
        (b"GGUF" + whole[4:], "not a reference file"),
        (whole[:40], "header is damaged"),
        (start[:8] + b"\xff\xff\xff\xff" + whole[12:], "header is damaged"),
        (start[:8] + len(hostile).to_bytes(4, "little") + hostile, "header is damaged"),
        (b"", "not a reference file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=words):
            Reference(path)
    with pytest.raises(InputError, match="cannot read"):
        Reference(tmp_path / "absent")


def test_logits_that_are_not_numbers_are_refused(backend, windows, monkeypatch):
    real = backend.windows

    def damaged(*args, **kwargs):
        for part in real(*args, **kwargs):
            part.logits[3, 5] = np.nan
            yield part

    monkeypatch.setattr(backend, "windows", damaged)
    with pytest.raises(InputError, match="window 0: the model's logits are not numbers"):
        measure_text(backend, windows)


PEER = os.environ.get("BITSWEEP_LLAMA_PERPLEXITY") or "build/peers/bin/llama-perplexity"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists(PEER), reason=f"llama-perplexity is not built: {PEER}")
@pytest.mark.parametrize("n_ctx", [128, 512])
def test_perplexity_is_llama_perplexitys(tiny, tmp_path, n_ctx):
    text = tmp_path / "text"
    text.write_text(lines(3000))
    command = [PEER, "-m", tiny.gguf, "-f", text, "-c", str(n_ctx), "-t", "2", "-b", "2048", "-ub", "512"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    match = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", told.stdout + told.stderr)
    assert match, told.stderr[-2000:]
    backend = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=2))
    result = measure_text(backend, cut_windows(backend, text.read_text(), n_ctx=n_ctx)).perplexity
    backend.close()
    assert result.value == pytest.approx(float(match[1]), rel=1e-4)
    assert result.stderr == pytest.approx(float(match[2]), rel=1e-3)
