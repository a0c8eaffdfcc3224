"""Intervals and tests of paired differences: closed forms, enumeration, and coverage by simulation.

Every simulation has a fixed seed and R repetitions. A share p then has the Monte Carlo error sqrt(p (1 - p) / R); the
bounds are the nominal level plus or minus three errors.
"""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from sweep import statistics

R = 1500
ERROR = sqrt(0.95 * 0.05 / R)  # 0.0056: Monte Carlo error of a coverage of 0.95 and of a rejection rate of 0.05
INDEPENDENT = None


def changes(lost: int, won: int, same: int) -> np.ndarray:
    return np.repeat([-1.0, 1.0, 0.0], [lost, won, same])


@pytest.mark.parametrize(("b", "c", "n"), [(22, 7, 170), (0, 0, 300), (3, 0, 200), (1, 4, 50)])
def test_interval_of_binary_differences_follows_the_formula_of_bonett_and_price(b, c, n):
    found = statistics.compare_differences(changes(b, c, n - b - c), binary=True)
    lost, won = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = stats.norm.ppf(0.975) * sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    assert (found.low, found.high) == pytest.approx((won - lost - half, won - lost + half), abs=1e-12)
    assert (found.delta, found.n, found.clusters) == (pytest.approx((c - b) / n), n, None)


def test_the_interval_has_a_width_even_if_no_item_changed():
    found = statistics.compare_differences(np.zeros(300), binary=True)
    assert found.p_value == 1.0
    # the largest share p of losses that is consistent with no change in n items, which has the probability (1 - p)^n
    unseen = 1 - 0.025 ** (1 / 300)
    assert found.low == -found.high
    assert 0.5 * unseen < found.high < 2 * unseen


@pytest.mark.parametrize(
    ("n", "lost", "won"), [(200, 0.05, 0.02), (1000, 0.1, 0.05), (50, 0.1, 0.1), (400, 0.02, 0.01), (200, 0.01, 0.0)]
)
def test_interval_of_binary_differences_has_at_least_nominal_coverage(n, lost, won):
    """With few changes the coverage is above nominal, never below; with many it is nominal."""
    rng = np.random.default_rng(n)
    covered = 0
    for b, c, same in rng.multinomial(n, [lost, won, 1 - lost - won], size=R):
        found = statistics.compare_differences(changes(b, c, same), binary=True)
        covered += found.low <= won - lost <= found.high
    assert covered / R >= 0.95 - 3 * ERROR
    if n * (lost + won) > 100:
        assert covered / R <= 0.95 + 3 * ERROR


@pytest.mark.parametrize("n", [12, 124])
def test_interval_and_test_of_continuous_differences_have_nominal_error_rates(n):
    """The data are skewed like divergences by window; with few windows the t interval covers slightly too little."""
    rng = np.random.default_rng(n)
    covered = rejected = 0
    for row in rng.gamma(4.0, 0.25, (R, n)):
        found = statistics.compare_differences(row)
        covered += found.low <= 1.0 <= found.high
        rejected += statistics.compare_differences(row - 1.0).p_value < 0.05
    assert 0.95 - 3 * ERROR - 0.02 * (n == 12) <= covered / R <= 0.95 + 3 * ERROR
    assert rejected == R - covered  # the test rejects exactly when the interval excludes the value


def test_interval_of_continuous_differences_is_students():
    rng = np.random.default_rng(5)
    x, y = rng.random(80), rng.random(80)
    found = statistics.compare_items(x, y)
    expected = stats.ttest_rel(y, x).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_sign_flip_test_equals_an_enumeration_of_all_sign_patterns():
    """All 2^k patterns, for differences of several sizes and for clusters."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        row = rng.integers(-2, 3, rng.integers(1, 10))
        clusters = rng.integers(0, 4, len(row))
        for labels, units in ((INDEPENDENT, row), (clusters, [row[clusters == g].sum() for g in range(4)])):
            sums = [abs(np.dot(signs, units)) for signs in product((-1, 1), repeat=len(units))]
            expected = np.mean(np.array(sums) >= abs(np.sum(units)))
            assert statistics.sign_flip_test(row, labels) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="whole numbers"):
        statistics.sign_flip_test([0.5, 1.0])


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 0), (22, 7), (400, 371)])
def test_sign_flip_test_of_single_items_equals_mcnemar(b, c):
    reference, variant = np.repeat([1.0, 0.0], [b, c]), np.repeat([0.0, 1.0], [b, c])
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert statistics.sign_flip_test(changes(b, c, 9)) == pytest.approx(expected, rel=1e-9)
    if b + c:
        assert statistics.mcnemar(reference, variant) == pytest.approx(expected, rel=1e-12)
    # clusters of one item each change nothing
    row = changes(b, c, 9)
    assert statistics.sign_flip_test(row, np.arange(len(row))) == pytest.approx(expected, rel=1e-9)


def test_exact_test_of_a_difference_of_losses_has_nominal_level_and_power():
    rng = np.random.default_rng(8)
    n, wrong, found = 250, 0, 0
    for _ in range(R):
        loss_a, loss_b = rng.choice([-1, 0, 1], p=[0.08, 0.88, 0.04], size=(2, n))
        wrong += statistics.compare_differences(loss_b - loss_a, binary=True).p_value < 0.05
        worse = rng.choice([-1, 0, 1], p=[0.20, 0.77, 0.03], size=n)
        found += statistics.compare_differences(worse - loss_a, binary=True).p_value < 0.05
    assert 0.05 - 4 * ERROR <= wrong / R <= 0.05 + 3 * ERROR  # an exact test rejects slightly less than its level
    assert found / R > 0.9


def test_interval_of_a_difference_of_losses_has_nominal_coverage():
    rng = np.random.default_rng(18)
    covered = 0
    for _ in range(R):
        loss_a = rng.choice([-1, 0, 1], p=[0.05, 0.93, 0.02], size=300)
        loss_b = rng.choice([-1, 0, 1], p=[0.12, 0.85, 0.03], size=300)
        found = statistics.compare_differences(loss_b - loss_a, binary=True)
        covered += found.low <= -0.06 <= found.high
    assert 0.95 - 3 * ERROR <= covered / R <= 0.95 + 3 * ERROR


def test_paired_bootstrap_means_share_their_resamples():
    rng = np.random.default_rng(6)
    base = rng.gamma(2.0, 1.0, 120)
    rows = np.stack([base, base + 0.25, rng.gamma(2.0, 1.0, 120)])
    means = statistics.bootstrap_means(rows, resamples=4000)
    assert means.shape == (3, 4000)
    assert np.ptp(means[1] - means[0]) < 1e-12  # what both rows have in common cancels
    assert means[0].std() == pytest.approx(base.std() / sqrt(120), rel=0.05)
    difference = means[2] - means[0]
    assert difference.std() == pytest.approx(statistics.paired_delta(rows[0], rows[2])[1], rel=0.05)
    assert np.array_equal(means, statistics.bootstrap_means(rows, resamples=4000))


def test_paired_bootstrap_of_a_difference_has_nominal_coverage():
    rng = np.random.default_rng(16)
    covered = 0
    for seed in range(400):
        hard = rng.gamma(1.5, 1.0, 124)  # windows that are hard for both variants
        rows = np.stack([hard * rng.gamma(20, 0.05, 124), hard * rng.gamma(20, 0.055, 124)])
        means = statistics.bootstrap_means(rows, resamples=500, seed=seed)
        low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
        covered += low <= 1.5 * 0.1 <= high
    assert abs(covered / 400 - 0.95) <= 3 * sqrt(0.95 * 0.05 / 400)


def test_bootstrap_of_few_chunks_has_nearly_nominal_coverage():
    """The plain percentile method covers 87 % with eight chunks."""
    rng = np.random.default_rng(17)
    covered = plain = 0
    for seed in range(400):
        row = rng.normal(1.0, 1.0, 8)
        low, high = statistics.bootstrap_interval(row, resamples=400, seed=seed)
        covered += low <= 1.0 <= high
        low, high = np.quantile(statistics.bootstrap_means(row, resamples=400, seed=seed)[0], [0.025, 0.975])
        plain += low <= 1.0 <= high
    assert covered / 400 >= 0.92
    assert plain / 400 < 0.91


def test_recovery_plus_or_minus_its_error_has_nominal_coverage():
    rng = np.random.default_rng(26)
    n, chance, covered = 400, 0.25, 0
    truth = (0.85 * 0.9 + 0.1 * 0.3 - chance) / (0.85 - chance)
    for _ in range(R):
        reference = (rng.random(n) < 0.85).astype(float)
        variant = np.where(rng.random(n) < 0.1, rng.random(n) < 0.3, reference).astype(float)
        errors = [row.std() / sqrt(n) for row in (variant, reference)]
        _, paired = statistics.paired_delta(reference, variant)
        score, base = variant.mean(), reference.mean()
        error = statistics.recovery_stderr(score, base, chance, *errors, paired)
        covered += abs(statistics.recovery(score, base, chance) - truth) <= 1.96 * error
    assert abs(covered / R - 0.95) <= 3 * ERROR


def test_holm_keeps_the_family_wise_error_rate_for_variants_that_share_items():
    """Eight variants without a true loss answer the same items: the tests correlate, and Holm's bound still holds."""
    rng = np.random.default_rng(36)
    family = alone = 0
    for _ in range(300):
        shaky = rng.random(300) < 0.3  # the items that any variant may change
        p_values = []
        for _ in range(8):
            changed = shaky & (rng.random(300) < 0.5)
            p_values.append(statistics.sign_flip_test(np.where(changed, rng.choice([-1, 1], 300), 0)))
        family += statistics.holm(p_values).min() < 0.05
        alone += min(p_values) < 0.05
    assert family / 300 <= 0.05 + 3 * sqrt(0.05 * 0.95 / 300)
    assert alone / 300 > 0.15  # the error rate of eight tests at 0.05 without Holm's correction


def test_a_resample_without_the_statistic_widens_both_ends():
    values = np.arange(1000.0)
    many = 10**9  # so many groups that the percentiles are not expanded
    ten_missing = np.where(np.isin(values, np.arange(400, 410)), np.nan, values)
    known = ten_missing[~np.isnan(ten_missing)]
    low, high = statistics.percentile_interval(ten_missing, many)
    assert (low, high) == (known[24 - 10], known[-(24 - 10) - 1])
    assert low < statistics.percentile_interval(values, many)[0]
    thirty_missing = np.where(values < 30, np.nan, values)
    assert statistics.percentile_interval(thirty_missing, many) == (-np.inf, np.inf)
