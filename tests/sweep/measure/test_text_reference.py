"""The reference file is small and unbiased, appears only when it is complete, and is rejected for another text."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats

from converters.errors import InputError
from sweep.measure import reference as reference_module
from sweep.measure.basefile import BaseFile, BaseFileWriter, base_row
from sweep.measure.divergence import BASE_FLOOR, RowDivergence, base_file_divergence, sampled_divergence
from sweep.measure.perplexity import Windows
from sweep.measure.reference import Reference, ReferenceWriter, open_reference
from sweep.measure.sampling import HEAD, SAMPLED_ROW, TAIL, sample_rows
from sweep.measure.softmax import map_rows, summarize_rows

QWEN = 151_936


def heavy_tailed_logits(rng: np.random.Generator, n: int, n_vocab: int) -> np.ndarray:
    return (rng.normal(size=(n, n_vocab)) * 1.5).astype(np.float32)


def zipf_like_logits(rng: np.random.Generator, n: int, n_vocab: int) -> np.ndarray:
    """Logits that fall with the logarithm of a token's rank, as those of language models do, with varying slopes."""
    slope = rng.uniform(1.0, 1.6, (n, 1)).astype(np.float32)
    order = np.log(rng.permutation(n_vocab) + 1).astype(np.float32)
    logs = np.stack([np.roll(order, shift) for shift in rng.integers(0, n_vocab, n)])
    noise: np.ndarray = rng.standard_normal((n, n_vocab), np.float32)
    return noise / 2 - slope * logs


def compare(rows: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> RowDivergence:
    summary = summarize_rows(logits)
    return sampled_divergence(rows, logits, summary.normalizers, summary.top, targets)


@pytest.mark.parametrize("n_vocab", [2053, 4096, 50_000])
def test_log_normalizers_equal_those_of_scipy(n_vocab: int) -> None:
    logits = heavy_tailed_logits(np.random.default_rng(3), 41, n_vocab) * 3
    logits[5, 7] = logits[5].max() + 100
    logits[6, 8:] = -np.inf
    with ThreadPoolExecutor(3) as pool:
        found = dict(enumerate(map_rows(pool, 3, len(logits), lambda piece: summarize_rows(logits[piece]))))
    assert np.concatenate([np.arange(41)[piece] for piece, _ in found.values()]).tolist() == list(range(41))
    normalizers = np.concatenate([summary.normalizers for _, summary in found.values()])
    assert normalizers == pytest.approx(scipy.special.logsumexp(logits.astype(np.float64), axis=1), abs=2e-6)
    assert np.concatenate([s.top for _, s in found.values()]).tolist() == logits.argmax(1).tolist()
    for bad in (np.nan, np.inf):
        logits[9, 11] = bad
        assert np.flatnonzero(~np.isfinite(summarize_rows(logits).normalizers)).tolist() == [9]


def test_the_sampled_reference_is_unbiased_and_its_stated_error_is_right() -> None:
    rng = np.random.default_rng(0)
    n_vocab, n = 8192, 6
    p_logits = heavy_tailed_logits(rng, n, n_vocab)
    q_logits = p_logits + rng.normal(scale=0.3, size=p_logits.shape).astype(np.float32)
    p = scipy.special.log_softmax(p_logits.astype(np.float64), -1)
    q = scipy.special.log_softmax(q_logits.astype(np.float64), -1)
    exact = scipy.stats.entropy(np.exp(p), np.exp(q), axis=-1)
    z, targets = summarize_rows(p_logits).normalizers, np.arange(n)
    results = [compare(sample_rows(p_logits, z, targets, rng.random((n, TAIL))), q_logits, targets) for _ in range(150)]
    draws = np.array([result.kld for result in results])
    error = draws.mean(0) - exact
    assert np.abs(error / (draws.std(0) / np.sqrt(len(draws)))).max() < 4.0
    assert np.abs(draws.mean() / exact.mean() - 1) < 0.003
    assert np.sqrt(np.mean([result.variance for result in results], 0)) == pytest.approx(draws.std(0, ddof=1), rel=0.25)
    assert (results[0].same_top == (p.argmax(-1) == q.argmax(-1))).all()
    assert results[0].target_logprob == pytest.approx(p[targets, targets], abs=1e-5)
    assert results[0].confidence == pytest.approx(np.exp(p.max(1)), rel=1e-5)


def test_the_tail_is_drawn_in_proportion_to_probability() -> None:
    rng = np.random.default_rng(5)
    n_vocab, n = 33_001, 300  # not a multiple of the groups; large enough to find the head by the groups' maxima
    one = zipf_like_logits(rng, 1, n_vocab)
    one[0, :700] = one.max() - 1  # ties, some of which are in the head
    logits = np.repeat(one, n, 0)
    z = summarize_rows(logits).normalizers
    rows = sample_rows(logits, z, np.zeros(n, int), rng.random((n, TAIL)))
    order = np.lexsort((np.arange(n_vocab), -one[0]))
    assert (rows["head_tokens"] == order[:HEAD]).all()
    p = np.exp(one[0].astype(np.float64) - z[0])
    assert rows["tail_mass"] == pytest.approx(p[order[HEAD:]].sum(), rel=1e-5)
    tail = order[HEAD:]
    parts = np.array_split(tail, 20)
    part_of = np.full(n_vocab, -1)
    for i, part in enumerate(parts):
        part_of[part] = i
    drawn = np.bincount(part_of[rows["tail_tokens"].ravel().astype(int)], minlength=20)
    assert drawn.sum() == n * TAIL  # no drawn token is in the head
    expected = np.array([p[part].sum() for part in parts]) / p[tail].sum() * n * TAIL
    assert scipy.stats.chisquare(drawn, expected).pvalue > 1e-4
    assert rows["tail_logprobs"] == pytest.approx(one[0][rows["tail_tokens"].astype(int)] - z[0], abs=1e-5)


def test_the_same_seed_draws_the_same_tokens_however_rows_are_divided_among_calls(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    windows = Windows(rng.integers(0, 4096, (2, 14), dtype=np.int32), 3)
    logits = heavy_tailed_logits(rng, 2 * windows.rows_each, 4096)
    z, targets = summarize_rows(logits).normalizers, np.zeros(len(logits), int)
    writer = ReferenceWriter(tmp_path / "x", windows, n_vocab=4096, model="", seed=7)
    whole = writer.encode(0, logits, z, targets)
    parts = [writer.encode(at, logits[at : at + 3], z[at : at + 3], targets[at : at + 3]) for at in range(0, 20, 3)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole[0]["tail_tokens"], whole[1]["tail_tokens"])


def test_a_reference_of_qwens_vocabulary_has_at_most_a_twentieth_of_llama_cpps_size() -> None:
    assert SAMPLED_ROW.itemsize <= 0.05 * base_row(QWEN).itemsize


@pytest.mark.slow
def test_mean_divergence_of_64_chunks_is_within_three_in_a_thousand() -> None:
    """64 chunks of a text with Qwen's vocabulary; 16 simulated positions stand for each chunk."""
    rng = np.random.default_rng(11)
    exact, sampled, variance = [], [], []
    chunks, per_batch = 64, 16
    for batch in range(chunks):
        p_logits = zipf_like_logits(rng, per_batch, QWEN)
        q_logits = p_logits + np.float32(0.3) * rng.standard_normal(p_logits.shape, np.float32)
        z, targets = summarize_rows(p_logits).normalizers, np.zeros(per_batch, int)
        p = scipy.special.log_softmax(p_logits.astype(np.float64), -1)
        q = scipy.special.log_softmax(q_logits.astype(np.float64), -1)
        exact.append((np.exp(p) * (p - q)).sum(1))
        rows = sample_rows(p_logits, z, targets, np.random.default_rng(batch).random((per_batch, TAIL)))
        result = compare(rows, q_logits, targets)
        sampled.append(result.kld)
        variance.append(result.variance)
    true = np.concatenate(exact).mean()
    off = np.concatenate(sampled).mean() - true
    stated = np.sqrt(np.concatenate(variance).sum()) / (chunks * per_batch)
    print(f"off by {off / true:+.3%}, stated error {stated / true:.3%}")
    assert abs(off) < 0.003 * true
    assert abs(off) < 4 * stated < 0.012 * true


def test_a_sampled_reference_is_written_and_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n_vocab = 4096
    windows = Windows(rng.integers(0, n_vocab, (3, 10), dtype=np.int32), 4)
    logits = heavy_tailed_logits(rng, 3 * windows.rows_each, n_vocab)
    normalizers = summarize_rows(logits).normalizers
    targets = windows.tokens[:, windows.first + 1 :].ravel()
    path = tmp_path / "reference"
    with ReferenceWriter(path, windows, n_vocab=n_vocab, model="BF16") as writer:
        for at in range(0, len(logits), 5):
            here = slice(at, at + 5)
            writer.append(writer.encode(at, logits[here], normalizers[here], targets[here]))
    reference = open_reference(path)
    rows = reference.rows(1, windows.first + 2, 3)
    assert rows.dtype == SAMPLED_ROW
    assert rows["head_tokens"][:, 0].tolist() == logits[7:10].argmax(1).tolist()
    logprobs = logits[7:10] - normalizers[7:10, None]
    assert rows["head_logprobs"] == pytest.approx(-np.sort(-logprobs, 1)[:, :HEAD], abs=1e-6)
    assert rows["tail_mass"] == pytest.approx(1 - np.exp(rows["head_logprobs"].astype(float)).sum(1), abs=1e-6)
    assert not set(rows["head_tokens"][0]) & set(rows["tail_tokens"][0])
    own = compare(rows, logits[7:10], targets[7:10])
    assert own.kld.max() < 1e-12
    assert own.same_top.all()
    assert own.target_logprob == pytest.approx(logprobs[np.arange(3), targets[7:10]], abs=1e-6)
    damaged = bytearray(path.read_bytes())
    start = len(damaged) - reference.rows(0, windows.first, 3 * windows.rows_each).nbytes
    damaged[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match="rows are damaged"):
        Reference(path).rows(0, windows.first, 2)


@pytest.mark.parametrize("n_vocab", [512, 513])
def test_every_figure_from_a_base_file_equals_the_closed_form(n_vocab: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    windows = Windows(rng.integers(0, n_vocab, (5, 16), dtype=np.int32), 8)
    logits = 4 * heavy_tailed_logits(rng, 5 * windows.rows_each, n_vocab)
    variant = (logits + 2 * rng.normal(size=logits.shape)).astype(np.float32)
    targets = windows.tokens[:, windows.first + 1 :].ravel()
    path = tmp_path / "base.kld"
    with BaseFileWriter(path, windows, n_vocab=n_vocab) as writer:
        writer.append(writer.encode(0, logits, summarize_rows(logits).normalizers, targets))
    base = open_reference(path)
    rows = np.concatenate([base.rows(window, windows.first, windows.rows_each) for window in range(5)])
    summary = summarize_rows(variant)
    found = base_file_divergence(rows, variant, summary.normalizers, summary.top, targets)

    logq = scipy.special.log_softmax(variant.astype(np.float64), axis=1)
    logp = rows["least"][:, None].astype(np.float64) + rows["scale"][:, None] * rows["steps"][:, :n_vocab].astype(float)
    p = np.where(logp > BASE_FLOOR, np.exp(logp), 0)
    assert 0 < (logp > BASE_FLOOR).sum() < logp.size
    assert found.kld == pytest.approx((p * (logp - logq)).sum(axis=1), abs=1e-5)
    assert found.variance.tolist() == [0.0] * len(rows)
    same = logits.argmax(axis=1) == variant.argmax(axis=1)
    assert 0 < same.sum() < len(same) != 2 * same.sum()
    assert found.same_top.tolist() == same.tolist()
    # a step is at most 16 / 65535 nats
    logprobs = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    near = logprobs[np.arange(len(rows)), targets] > logprobs.max(axis=1) - 16
    assert found.target_logprob[near] == pytest.approx(logprobs[np.arange(len(rows)), targets][near], abs=2e-4)
    assert found.confidence == pytest.approx(np.exp(logprobs.max(axis=1)), rel=2e-4)


def small_reference(path: Path, n_vocab: int = 512) -> Windows:
    rng = np.random.default_rng(0)
    windows = Windows(rng.integers(0, n_vocab, (3, 16), dtype=np.int32), 8)
    logits = heavy_tailed_logits(rng, 3 * windows.rows_each, n_vocab)
    z, targets = summarize_rows(logits).normalizers, windows.tokens[:, 9:].ravel()
    with ReferenceWriter(path, windows, n_vocab=n_vocab, model="") as writer:
        writer.append(writer.encode(0, logits, z, targets))
    with BaseFileWriter(path.with_suffix(".kld"), windows, n_vocab=n_vocab) as base:
        base.append(base.encode(0, logits, z, targets))
    return windows


def test_a_reference_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "reference"
    windows = Windows(np.zeros((3, 16), np.int32), 8)

    def write(interrupted: bool) -> None:
        with ReferenceWriter(path, windows, n_vocab=512, model="") as writer:
            writer.append(np.zeros((5, 512), np.float32))
            if interrupted:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(interrupted=True)
    with pytest.raises(ValueError, match="5 of 21 rows were written"):
        write(interrupted=False)
    with pytest.raises(ValueError, match="bytes"), ReferenceWriter(path, windows, n_vocab=512, model="") as writer:
        writer.append(np.zeros((5, 511), np.float32))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot be written"):
        small_reference(Path("/proc/reference"))


def test_damaged_or_other_references_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "reference"
    windows = small_reference(path)
    whole = path.read_bytes()
    reference = Reference(path)
    reference.require(windows, 512)
    with pytest.raises(InputError, match="another text"):
        reference.require(windows.head(2), 512)
    with pytest.raises(InputError, match="vocabulary of 512 tokens, this model of 600"):
        reference.require(windows, 600)
    header = json.dumps(reference.header.__dict__).encode()
    hostile = json.dumps({**reference.header.__dict__, "windows": 1 << 60}).encode()
    negative = json.dumps({**reference.header.__dict__, "seed": -1}).encode()
    magic = reference_module.MAGIC
    for damaged, words in (
        (whole[:-1], "bytes, but by its header"),
        (whole + b"\0", "bytes, but by its header"),
        (b"GGUF" + whole[4:], "neither a reference file"),
        (whole[:40], "header is damaged"),
        (magic + b"\xff\xff\xff\xff" + whole[12:], "header is damaged"),
        (magic + len(hostile).to_bytes(4, "little") + hostile, "header is damaged"),
        (magic + len(negative).to_bytes(4, "little") + negative, "header is damaged"),
        (magic + len(header).to_bytes(4, "little") + header, "bytes, but by its header"),
        (b"", "neither a reference file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=words):
            open_reference(path)
    with pytest.raises(InputError, match="cannot read"):
        open_reference(tmp_path / "absent")


def test_damaged_or_other_base_files_are_rejected(tmp_path: Path) -> None:
    windows = small_reference(tmp_path / "reference")
    path = tmp_path / "reference.kld"
    whole = path.read_bytes()
    base = open_reference(path)
    assert isinstance(base, BaseFile)
    base.require(windows, 512)
    with pytest.raises(InputError, match="another text"):
        base.require(windows.head(2), 512)
    with pytest.raises(InputError, match="vocabulary of 512 tokens, this model of 600"):
        base.require(windows, 600)
    with pytest.raises(InputError, match="without a stride"):
        BaseFileWriter(path, Windows(windows.tokens, 5), n_vocab=512)
    nan = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8).tobytes()
    first_row = 8 + 12 + 4 * windows.tokens.size
    for damaged, words in (
        (whole[:-1], "bytes, but by its header"),
        (whole + b"\0", "bytes, but by its header"),
        (whole[:17], "ends within its header"),
        (whole[:8] + b"\xff\xff\xff\xff" + whole[12:], "header is damaged"),
        (whole[:16] + b"\xff\xff\xff\x7f" + whole[20:], "bytes, but by its header"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=words):
            open_reference(path)
    path.write_bytes(whole[:first_row] + nan + whole[first_row + 4 :])
    with pytest.raises(InputError, match="chunk 0 are not finite numbers"):
        open_reference(path).rows(0, windows.first, 3)


@pytest.mark.parametrize("header", [(8, 4, 0), (8, 0, 1), (3, 4, 1), (8, 4, -1)])
def test_a_base_file_whose_header_has_an_impossible_number_is_rejected(header: tuple[int, ...], tmp_path: Path) -> None:
    n_ctx, n_vocab, windows = header
    size = max(0, windows) * (4 * n_ctx + (n_ctx - 1 - n_ctx // 2) * base_row(n_vocab).itemsize)
    file = tmp_path / "base"
    file.write_bytes(b"_logits_" + np.array(header, "<i4").tobytes() + bytes(size))
    with pytest.raises(InputError, match="its header is damaged"):
        BaseFile(file)


def test_a_base_file_is_written_into_a_new_folder_and_names_itself_in_errors(tmp_path: Path) -> None:
    windows = Windows(np.arange(16, dtype=np.int32).reshape(2, 8), 4)
    file = tmp_path / "new" / "base"
    with BaseFileWriter(file, windows, n_vocab=4) as writer:
        rows = writer.encode(0, np.ones((6, 4), np.float32), np.full(6, np.log(4.0)), np.zeros(6, int))
        writer.append(rows)
    read = BaseFile(file)
    read.require(windows, 4)
    with pytest.raises(InputError) as caught:
        read.require(windows, 5)
    assert str(caught.value).startswith(f"{file}: the reference has a vocabulary of 4 tokens, this model of 5;")
