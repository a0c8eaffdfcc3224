"""Figures of a divergence from arrays, compared with numpy, scipy and formulas written out."""

from __future__ import annotations

from dataclasses import replace
from math import isnan, sqrt

import numpy as np
import pytest
import scipy.special
import scipy.stats

from sweep import statistics
from sweep.measure.divergence import BASE_FLOOR, base_file_divergence, full_divergence, sampled_divergence
from sweep.measure.sampling import HEAD, SAMPLED_ROW, TAIL
from sweep.measure.summary import DELTA_P_PERCENTILES, KLD_PERCENTILES, Positions, summarize_divergence


def positions() -> Positions:
    rng = np.random.default_rng(3)
    shape = (4, 5)
    reference = rng.uniform(0.1, 3, shape)
    nll = reference + rng.normal(scale=0.3, size=shape)
    confidence = np.linspace(0.2, 1.0, 20).reshape(shape)
    return Positions(
        rng.uniform(0, 0.2, shape), rng.uniform(0, 0.01, shape), rng.random(shape) < 0.7, confidence, nll, reference
    )


def test_every_figure_of_a_divergence_has_its_definition() -> None:
    given = positions()
    result = summarize_divergence(given)
    found, kld, nll, base = result.figures, given.kld, given.nll.ravel(), given.reference_nll.ravel()
    windows = kld.mean(axis=1)
    assert (result.tokens, result.window_kld) == (20, tuple(windows.tolist()))
    assert found.kld_mean == pytest.approx(kld.mean())
    assert found.kld_stderr == pytest.approx(windows.std(ddof=1) / 2)
    assert (found.kld_low, found.kld_high) == statistics.bootstrap_interval(windows)
    assert found.kld_token_stderr == pytest.approx(kld.std(ddof=1) / sqrt(20))
    assert found.kld_percentiles == {f"{at:g}": pytest.approx(np.percentile(kld, at)) for at in KLD_PERCENTILES}
    assert (found.kld_max, found.kld_p99_9) == (kld.max(), pytest.approx(np.percentile(kld, 99.9)))
    agreement = given.same_top.mean()
    assert 0 < agreement < 1
    assert found.top1_agreement == agreement
    assert found.top1_stderr == pytest.approx(sqrt(agreement * (1 - agreement) / 19))
    assert found.sampling_stderr == pytest.approx(sqrt(given.variance.sum()) / 20)
    # perplexities: covariance matrix of the two means, and gradients of the figures
    matrix = np.cov(nll, base) / 20
    value, reference = np.exp(nll.mean()), np.exp(base.mean())
    assert found.perplexity_reference == pytest.approx(reference)
    assert found.perplexity_reference_stderr == pytest.approx(reference * sqrt(matrix[1, 1]))
    assert found.perplexity_correlation == pytest.approx(np.corrcoef(nll, base)[0, 1])
    assert found.perplexity_log_ratio == pytest.approx(nll.mean() - base.mean())
    paired = (nll - base).std(ddof=1) / sqrt(20)
    assert found.perplexity_log_ratio_stderr == pytest.approx(paired)
    assert found.perplexity_ratio == pytest.approx(value / reference)
    assert found.perplexity_ratio_stderr == pytest.approx(value / reference * paired)
    assert found.perplexity_difference == pytest.approx(value - reference)
    gradient = np.array([value, -reference])
    assert found.perplexity_difference_stderr == pytest.approx(sqrt(gradient @ matrix @ gradient))
    moved = np.exp(-nll) - np.exp(-base)
    assert found.delta_p_mean == pytest.approx(moved.mean())
    assert found.delta_p_stderr == pytest.approx(moved.std(ddof=1) / sqrt(20))
    rms = sqrt(np.mean(moved**2))
    assert found.delta_p_rms == pytest.approx(rms)
    assert found.delta_p_rms_stderr == pytest.approx((moved**2).std(ddof=1) / sqrt(20) / (2 * rms))
    expected = {f"{at:g}": pytest.approx(np.percentile(moved, at)) for at in DELTA_P_PERCENTILES}
    assert found.delta_p_percentiles == expected
    assert [(one.low, one.high, one.tokens) for one in found.by_confidence] == [
        (0.0, 0.25, 2),
        (0.25, 0.5, 6),
        (0.5, 0.75, 6),
        (0.75, 0.9, 3),
        (0.9, 0.99, 2),
        (0.99, 1.0, 1),
    ]
    assert found.by_confidence[1].kld_mean == pytest.approx(kld.ravel()[2:8].mean())


def test_figures_that_do_not_exist_are_missing() -> None:
    given = positions()
    first = Positions(*(getattr(given, name)[:1] for name in Positions.__dataclass_fields__))
    single = summarize_divergence(first).figures
    assert isnan(single.kld_stderr)
    assert (single.kld_low, single.kld_high) == (None, None)
    same = summarize_divergence(replace(given, nll=given.reference_nll)).figures
    assert (same.perplexity_log_ratio_stderr, same.perplexity_difference_stderr) == pytest.approx((0, 0), abs=1e-8)
    assert (same.delta_p_rms, same.delta_p_rms_stderr) == (0.0, 0.0)
    constant = summarize_divergence(replace(given, nll=np.full((4, 5), 0.5))).figures
    assert constant.perplexity_correlation is None
    outside = summarize_divergence(replace(given, confidence=np.full((4, 5), 1.0000001))).figures.by_confidence
    assert [(one.low, one.tokens) for one in outside] == [(0.99, 20)]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    found: np.ndarray = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    return found


def test_a_full_divergence_is_scipys_entropy_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.measure.divergence.BLOCK", 100)  # two rows of 50 at a time
    rng = np.random.default_rng(1)
    p_logits, q_logits = rng.normal(size=(2, 7, 50)).astype(np.float32)
    p_logits[3, 4:] = -np.inf  # probabilities of 0
    p, q = log_softmax(p_logits), log_softmax(q_logits)
    targets = np.arange(7) % 3
    normalizers = scipy.special.logsumexp(q_logits.astype(np.float64), axis=1)
    found = full_divergence(p.astype(np.float32), q_logits, normalizers, q.argmax(1), targets)
    assert found.kld == pytest.approx(scipy.stats.entropy(np.exp(p), np.exp(q), axis=1), rel=1e-5)
    assert found.variance.tolist() == [0.0] * 7
    assert found.same_top.tolist() == (p.argmax(1) == q.argmax(1)).tolist()
    assert found.target_logprob == pytest.approx(p[np.arange(7), targets], rel=1e-6)
    assert found.confidence == pytest.approx(np.exp(p.max(1)), rel=1e-6)
    broken = p.astype(np.float32)
    broken[2, 0] = np.nan
    assert np.flatnonzero(np.isnan(full_divergence(broken, q_logits, normalizers, q.argmax(1), targets).kld)) == [2]


def test_a_sampled_divergence_adds_the_head_and_an_estimate_of_the_tail() -> None:
    """Head and tail written by hand: two rows, the second without a tail."""
    n_vocab = HEAD + 8
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(2, n_vocab)).astype(np.float32)
    q = log_softmax(logits)
    normalizers = scipy.special.logsumexp(logits.astype(np.float64), axis=1)
    rows = np.zeros(2, SAMPLED_ROW)
    order = rng.permutation(n_vocab)
    p = log_softmax(rng.normal(size=(2, n_vocab)))
    rows["head_tokens"], rows["head_logprobs"] = order[:HEAD], p[:, order[:HEAD]]
    drawn = order[HEAD + rng.integers(0, 8, TAIL)]
    rows["tail_tokens"], rows["tail_logprobs"] = drawn, p[:, drawn]
    rows["tail_mass"] = 0.3, 0.0
    rows["tail_logprobs"][1] = -np.inf
    rows["target_logprob"] = -1.5, -2.5
    top = np.array([order[0], order[1]])
    found = sampled_divergence(rows, logits, normalizers, top, top)
    head_p, head_q = rows["head_logprobs"].astype(np.float64), q[:, order[:HEAD]]
    head = np.sum(np.exp(head_p) * (head_p - head_q) - np.exp(head_p) + np.exp(head_q), axis=1)
    ratio = q[0, drawn] - rows["tail_logprobs"][0]
    draws = np.exp(ratio) - 1 - ratio
    assert found.kld == pytest.approx([head[0] + 0.3 * draws.mean(), head[1]], rel=1e-5)
    assert found.variance == pytest.approx([0.3**2 * draws.var(ddof=1) / TAIL, 0.0], rel=1e-5)
    assert found.same_top.tolist() == [True, False]
    assert found.target_logprob.tolist() == [-1.5, -2.5]
    assert found.confidence == pytest.approx(np.exp(head_p[:, 0]))


def test_a_base_files_divergence_counts_tokens_above_the_floor() -> None:
    from sweep.measure.basefile import base_row

    rows = np.zeros(1, base_row(3))
    rows["scale"], rows["least"] = 1.0, BASE_FLOOR
    rows["steps"][0, :3] = 16, 15, 0  # log-probabilities 0, -1 and the floor itself, which does not count
    logits = np.array([[2.0, 1.0, 3.0]], np.float32)
    found = base_file_divergence(rows, logits, np.zeros(1), logits.argmax(1), np.array([1]))
    z = np.log(np.exp(2.0) + np.exp(1.0) + np.exp(3.0))
    assert found.kld == pytest.approx([0 - 2 + z + np.exp(-1) * (-1 - 1 + z)], rel=1e-6)
    assert (found.confidence.tolist(), found.target_logprob.tolist()) == ([1.0], [-1.0])
    assert (found.same_top.tolist(), found.variance.tolist()) == ([False], [0.0])
