"""Statistics against closed forms, enumeration and simulation."""

from __future__ import annotations

from itertools import product
from math import comb, exp, log, sqrt

import numpy as np
import pytest
from scipy import stats

from sweep import statistics


def table(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and variant scores with the given 2 x 2 table."""
    reference = np.repeat([1.0, 1.0, 0.0, 0.0], [both, lost, won, neither])
    variant = np.repeat([1.0, 0.0, 1.0, 0.0], [both, lost, won, neither])
    return reference, variant


@pytest.mark.parametrize("counts", [(90, 22, 7, 51), (0, 3, 0, 0), (10, 0, 0, 5), (1, 4, 9, 300)])
def test_paired_delta_of_binary_scores_equals_the_closed_form(counts):
    both, b, c, neither = counts
    n = both + b + c + neither
    delta, stderr = statistics.paired_delta(*table(*counts))
    assert delta == pytest.approx((c - b) / n, abs=1e-15)
    assert stderr == pytest.approx(sqrt(b + c - (b - c) ** 2 / n) / n, abs=1e-15)


def test_paired_delta_of_continuous_scores_agrees_with_the_paired_t_statistic():
    rng = np.random.default_rng(3)
    reference = rng.random(300)
    variant = reference + rng.normal(0.01, 0.05, 300)
    delta, stderr = statistics.paired_delta(reference, variant)
    # t = mean / (sd(ddof=1) / sqrt(n)); ours divides by n, so it is larger by sqrt(n / (n - 1))
    assert delta / stderr == pytest.approx(stats.ttest_rel(variant, reference).statistic * sqrt(300 / 299), rel=1e-12)


@pytest.mark.parametrize(("b", "c"), [*product(range(6), range(6)), (22, 7), (3, 40)])
def test_mcnemar_equals_the_binomial_tail_summed_directly(b, c):
    m = b + c
    expected = min(1.0, 2 * sum(comb(m, k) for k in range(min(b, c) + 1)) / 2**m)
    assert statistics.mcnemar(*table(50, b, c, 20)) == pytest.approx(expected, rel=1e-12)


def test_the_paired_test_finds_a_difference_that_an_unpaired_test_misses():
    reference, variant = table(101, 22, 7, 40)  # 123 and 108 right of 170
    p1, p2, n = reference.mean(), variant.mean(), len(reference)
    z = (p1 - p2) / sqrt((p1 * (1 - p1) + p2 * (1 - p2)) / n)
    assert 2 * stats.norm.sf(z) == pytest.approx(0.080, abs=5e-4)
    assert statistics.mcnemar(reference, variant) == pytest.approx(0.008, abs=5e-4)


def test_mcnemar_rejects_at_most_5_percent_if_there_is_no_difference():
    rng = np.random.default_rng(7)
    rejected = 0
    for _ in range(400):
        truth = rng.random(250) < 0.8
        first, second = (np.where(rng.random(250) < 0.1, ~truth, truth).astype(float) for _ in range(2))
        rejected += statistics.mcnemar(first, second) < 0.05
    assert rejected / 400 <= 0.07  # exact test: at most 0.05, plus two standard errors of the simulation


def test_no_change_and_few_changes_have_the_p_value_1():
    assert statistics.mcnemar([1, 0, 1], [1, 0, 1]) == 1.0
    assert statistics.mcnemar([1, 0], [0, 1]) == 1.0  # twice the tail would be 1.5
    assert statistics.mcnemar([0, 0], [1, 1]) == 0.5


def test_sign_flip_test_of_sums_of_different_size_is_an_enumeration():
    # 3, 1, 1 with all signs: |sum| >= 5 in 2 of 8 patterns, >= 3 in 6 of 8, >= 1 in all
    assert statistics.sign_flip_test([3, 1, 1, 0]) == pytest.approx(2 / 8)
    assert statistics.sign_flip_test([3, -1, 1]) == pytest.approx(6 / 8)
    assert statistics.sign_flip_test([3, -1, -1]) == pytest.approx(1.0)
    assert statistics.sign_flip_test([2, 2, -2]) == pytest.approx(1.0)
    assert statistics.sign_flip_test([2, 2]) == pytest.approx(0.5)
    assert statistics.sign_flip_test([1, 1, 1, 1, 1], ["a", "a", "b", "b", "b"]) == pytest.approx(0.5)  # 2 and 3
    assert statistics.sign_flip_test([1, 1, 1, -1], ["a", "a", "b", "b"]) == pytest.approx(1.0)  # one sum of 2
    for wrong in ([0.5, 1.0], [[1, 1]]):
        with pytest.raises(ValueError, match="whole numbers"):
            statistics.sign_flip_test(wrong)


def test_flips_count_changes_in_both_directions():
    assert statistics.flips(*table(10, 3, 2, 5)) == pytest.approx(5 / 20)
    assert statistics.flips(*table(10, 0, 0, 5)) == 0.0


def test_compare_items_uses_mcnemar_for_binary_scores_and_the_t_test_otherwise():
    binary = statistics.compare_items(*table(101, 22, 7, 40))
    assert binary.p_value == statistics.mcnemar(*table(101, 22, 7, 40))
    assert (binary.n, binary.flips) == (170, pytest.approx(29 / 170))
    rng = np.random.default_rng(1)
    x, y = rng.random(80), rng.random(80)
    assert statistics.compare_items(x, y).p_value == pytest.approx(stats.ttest_rel(x, y).pvalue)


def test_compare_items_gives_a_p_value_if_all_differences_are_equal():
    same = np.array([0.25, 0.5, 0.75])
    assert statistics.compare_items(same, same).p_value == 1.0
    # three items changed by the same amount: p is that of three equal coin tosses, not that of an infinite t
    for shift in (0.25, 0.1):  # with 0.1 rounding leaves a tiny spread
        assert statistics.compare_items(same, same + shift).p_value == 0.25
    alone = statistics.compare_items([0.25], [0.5])
    assert (alone.p_value, alone.low, alone.high) == (1.0, -np.inf, np.inf)


@pytest.mark.parametrize(
    ("reference", "variant"), [([], []), ([1, 0], [1]), ([1.0, float("nan")], [1.0, 0.0]), ([[1]], [[1]])]
)
def test_unpaired_or_undefined_scores_are_rejected(reference, variant):
    with pytest.raises(ValueError, match=r"items|finite"):
        statistics.compare_items(reference, variant)
    for one, other in ((reference, variant), (variant, reference)):
        with pytest.raises(ValueError, match=r"items|finite"):
            statistics.paired_delta(one, other)
    for one, other in (([0.5, 1.0], [1.0, 0.0]), ([1.0, 0.0], [1.0, 0.5]), ([1.0, -1.0], [1.0, 0.0])):
        with pytest.raises(ValueError, match="0 and 1"):
            statistics.mcnemar(one, other)


def test_holm_rejects_the_same_tests_as_the_step_down_procedure():
    rng = np.random.default_rng(5)
    for _ in range(200):
        p = rng.random(rng.integers(1, 12)) ** 3
        p[rng.integers(len(p))] = p[0]  # ties
        adjusted = statistics.holm(p)
        for alpha in (0.01, 0.05, 0.2, 0.7):
            rejected = set()
            for step, i in enumerate(np.argsort(p, kind="stable")):
                if p[i] >= alpha / (len(p) - step):
                    break
                rejected.add(int(i))
            assert set(np.flatnonzero(adjusted < alpha).tolist()) == rejected


def test_holm_agrees_with_a_worked_example():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]).shape == (0,)
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.holm([0.1, float("nan")])
    for wrong in ([-0.01, 0.5], [0.5, 1.01], [[0.1, 0.2]]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            statistics.holm(wrong)
    assert statistics.holm([1.0, 0.0, 0.9]).tolist() == [1.0, 0.0, 1.0]  # 2 x 0.9 is cut off at 1


def test_bootstrap_interval_has_nearly_its_nominal_coverage():
    rng = np.random.default_rng(11)
    covered = 0
    for seed in range(200):
        low, high = statistics.bootstrap_interval(rng.exponential(2.0, 120), resamples=300, seed=seed)
        covered += low <= 2.0 <= high
    # 0.95 minus the known undercoverage of the percentile method, plus or minus 3 Monte Carlo errors
    assert 0.89 <= covered / 200 <= 0.985


def test_bootstrap_by_chunk_is_wider_if_tokens_of_a_chunk_correlate():
    rng = np.random.default_rng(2)
    chunks = [rng.normal(0, 1) + rng.normal(0, 0.1, 100) for _ in range(60)]
    low, high = statistics.bootstrap_interval(chunks, seed=4)
    assert high - low == pytest.approx(2 * 1.96 * np.std([c.mean() for c in chunks]) / sqrt(60), rel=0.15)
    token_low, token_high = statistics.bootstrap_interval(np.concatenate(chunks), resamples=200, seed=4)
    assert high - low > 5 * (token_high - token_low)  # by token, the error would be about sqrt(100) too small
    assert statistics.bootstrap_interval(chunks, seed=4) == (low, high)
    assert statistics.bootstrap_interval(chunks, seed=5) != (low, high)


def test_bootstrap_accepts_a_percentile_and_documents_of_unequal_length():
    groups = [np.arange(n, dtype=float) for n in (3, 50, 7, 20)]
    low, high = statistics.bootstrap_interval(groups, lambda x: float(np.percentile(x, 99.9)), resamples=200)
    assert 2.0 <= low <= high <= 49.0
    with pytest.raises(ValueError, match="two groups"):
        statistics.bootstrap_interval([[1.0, 2.0]])


def test_perplexity_and_its_error_are_those_of_llama_perplexity():
    assert statistics.perplexity([log(2.0)] * 8) == (pytest.approx(2.0), pytest.approx(0.0, abs=1e-12))
    rng = np.random.default_rng(9)
    nll = rng.gamma(2.0, 0.7, 5000)
    value, stderr = statistics.perplexity(nll)
    assert value == pytest.approx(exp(nll.sum() / 5000))
    # llama-perplexity: sqrt((sum2 / n - mean^2) / (n - 1)) * ppl
    by_sums = sqrt((np.sum(nll**2) / 5000 - (nll.sum() / 5000) ** 2) / 4999) * value
    assert stderr == pytest.approx(by_sums, rel=1e-9)
    spread = np.std([statistics.perplexity(rng.gamma(2.0, 0.7, 5000))[0] for _ in range(300)])
    assert stderr == pytest.approx(spread, rel=0.15)


def test_perplexity_and_recovery_of_small_examples():
    value, error = statistics.perplexity([1.0, 2.0])
    assert (value, error) == pytest.approx((np.exp(1.5), np.exp(1.5) * 0.5))  # deviation sqrt(1/2), two tokens
    for wrong in ([1.0], [[1.0, 2.0], [3.0, 4.0]]):
        with pytest.raises(ValueError, match="at least two tokens"):
            statistics.perplexity(wrong)
    assert statistics.recovery(0.5, 0.75, 0.25) == 0.5
    # ratio 0.5, covariance (0.04^2 + 0.03^2 - 0.02^2) / 2 = 0.00105
    variance = 0.04**2 + 0.25 * 0.03**2 - 2 * 0.5 * 0.00105
    assert statistics.recovery_stderr(0.5, 0.75, 0.25, 0.04, 0.03, 0.02) == pytest.approx(variance**0.5 / 0.5)
    assert statistics.recovery_stderr(0.75, 0.75, 0.25, 0.03, 0.03, 0.0) == 0.0
    assert statistics.recovery_stderr(0.0, 0.25, 0.5, 0.02, 0.02, 0.02) > 0  # a reference below chance


def test_recovery_error_matches_simulation_of_paired_items():
    rng = np.random.default_rng(13)
    n, chance, recoveries = 1000, 0.25, []
    for _ in range(1500):
        reference = rng.random(n) < 0.85
        variant = np.where(rng.random(n) < 0.1, rng.random(n) < 0.3, reference)
        recoveries.append(statistics.recovery(variant.mean(), reference.mean(), chance))
    score, base = float(variant.mean()), float(reference.mean())
    _, delta_stderr = statistics.paired_delta(reference.astype(float), variant.astype(float))
    errors = (sqrt(p * (1 - p) / n) for p in (score, base))
    found = statistics.recovery_stderr(score, base, chance, *errors, delta_stderr)
    assert found == pytest.approx(np.std(recoveries), rel=0.15)
    assert statistics.recovery(0.25, 0.85, 0.25) == 0.0
    assert statistics.recovery(0.85, 0.85, 0.25) == 1.0
    assert statistics.recovery_stderr(0.8, 0.8, 0.0, 0.01, 0.01, 0.0) == 0.0


def test_pareto_set_holds_the_points_that_no_other_point_dominates():
    cost = [1, 2, 3, 3, 4, 5, 5]
    loss = [9, 5, 6, 5, 2, 2, 2]
    assert statistics.pareto_set(cost, loss).tolist() == [True, True, False, False, True, False, False]
    assert statistics.pareto_set([2, 2], [1, 1]).tolist() == [True, True]
    assert statistics.pareto_set([2, 2], [1, 3]).tolist() == [True, False]
    assert statistics.pareto_set([2, 3], [1, 1]).tolist() == [True, False]
    assert statistics.pareto_set([], []).tolist() == []
    with pytest.raises(ValueError, match="same length"):
        statistics.pareto_set([1, 2], [1])
