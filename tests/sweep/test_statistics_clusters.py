"""Items grouped by subject: closed forms, and data for which treating the items as independent gives wrong results."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import scipy.stats

from sweep import statistics

R = 1000
ERROR = sqrt(0.95 * 0.05 / R)  # 0.0069: Monte Carlo error of a coverage of 0.95 and of a rejection rate of 0.05
EQUAL = np.repeat(np.arange(57), 20)  # --limit 20 on a group of 57 subjects
# sizes like those of MMLU's test sets: most have 100 to 300 questions, some far more (scaled down by ten)
UNEQUAL = np.repeat(np.arange(57), [10] * 14 + [12] * 10 + [15] * 10 + [20] * 9 + [30] * 8 + [40, 60, 60, 78, 90, 153])
FEW = np.repeat(np.arange(10), 40)


def test_error_of_equal_clusters_is_the_error_of_their_means():
    rng = np.random.default_rng(0)
    values = rng.random(57 * 20) + 0.2 * rng.random(57)[EQUAL]
    means = values.reshape(57, 20).mean(axis=1)
    assert statistics.cluster_stderr(values, EQUAL) == pytest.approx(means.std(ddof=1) / sqrt(57), rel=1e-12)


def test_error_and_degrees_of_freedom_are_those_of_a_regression_on_a_constant():
    """Computed with the textbook's matrices: CR2 divides a cluster's residuals by the root of its block of I - H."""
    rng = np.random.default_rng(1)
    values = rng.random(len(UNEQUAL))
    n, x = len(values), np.ones((len(values), 1))
    hat = x @ np.linalg.inv(x.T @ x) @ x.T
    weights = []  # for each cluster: the weight of every error in its adjusted sum
    for g in range(57):
        members = g == UNEQUAL
        eigenvalues, axes = np.linalg.eigh(np.eye(members.sum()) - hat[np.ix_(members, members)])
        weights.append(x[members, 0] @ (axes / np.sqrt(eigenvalues)) @ axes.T @ (np.eye(n) - hat)[members] / n)
    expected = sqrt(sum((w @ values) ** 2 for w in weights))
    assert statistics.cluster_stderr(values, UNEQUAL) == pytest.approx(expected, rel=1e-9)
    covariance = np.array(weights) @ np.array(weights).T
    freedom = np.trace(covariance) ** 2 / np.sum(covariance**2)
    assert statistics.cluster_freedom(UNEQUAL) == pytest.approx(freedom, rel=1e-9)
    assert statistics.cluster_freedom(UNEQUAL) < 30
    assert statistics.cluster_freedom(EQUAL) == pytest.approx(56)


def test_error_of_one_item_per_cluster_is_the_plain_standard_error():
    values = np.random.default_rng(2).random(90)
    plain = values.std(ddof=1) / sqrt(90)
    assert statistics.cluster_stderr(values, [f"subject {i}" for i in range(90)]) == pytest.approx(plain, rel=1e-12)


def test_fewer_than_min_clusters_subtasks_count_as_independent_items():
    row = np.array([1.0, -1.0, 0.0] * 30)
    arc = ["arc_easy"] * 45 + ["arc_challenge"] * 45
    assert statistics.usable_clusters(arc) is None
    assert statistics.compare_differences(row, arc, binary=True) == statistics.compare_differences(row, binary=True)
    many = [f"subject {i % statistics.MIN_CLUSTERS}" for i in range(90)]
    assert statistics.compare_differences(row, many, binary=True).clusters == statistics.MIN_CLUSTERS


def test_differences_of_clustered_items_have_the_figures_of_their_formulas():
    values = np.array([0.3, 0.1, -0.2, 0.4, 0.0, 0.5, -0.1, 0.2, 0.2, 0.1, 0.6, -0.3, 0.1])
    labels = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]
    found = statistics.compare_differences(values, labels, confidence=0.9)
    stderr, freedom = statistics.cluster_stderr(values, labels), statistics.cluster_freedom(labels)
    half = scipy.stats.t.ppf(0.95, freedom) * stderr
    assert (found.delta, found.stderr) == pytest.approx((values.mean(), stderr))
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(values.mean() / stderr, freedom))
    assert (found.n, found.clusters) == (13, 10)
    signs = np.array([1, 1, 0, 1, -1, 0, 1, 1, 0, 1, 1, 1, -1])
    binary = statistics.compare_differences(signs, labels, binary=True)
    plain, stderr = signs.std() / sqrt(13), statistics.cluster_stderr(signs, labels)
    effect = max(1.0, (stderr / plain) ** 2)
    n = 13 / effect + 2
    mean = signs.sum() / effect / n
    half = scipy.stats.t.ppf(0.975, freedom) * sqrt(((np.sum(signs**2) / effect + 2) / n - mean**2) / n)
    assert (binary.low, binary.high) == pytest.approx((mean - half, mean + half))
    assert (binary.stderr, binary.p_value) == pytest.approx((stderr, statistics.sign_flip_test(signs, labels)))


def test_the_binary_interval_divides_counts_by_the_design_effect():
    labels = np.repeat(np.arange(12), 10)
    signs = np.where(labels % 3 == 0, -1.0, 0.0)  # all items of four subjects are lost
    plain, stderr = signs.std() / sqrt(120), statistics.cluster_stderr(signs, labels)
    effect = (stderr / plain) ** 2
    assert effect > 5
    found = statistics.compare_differences(signs, labels, binary=True, confidence=0.9)
    n = 120 / effect + 2
    mean = -40 / effect / n
    half = scipy.stats.t.ppf(0.95, 11) * sqrt(((40 / effect + 2) / n - mean**2) / n)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))


def test_items_are_compared_as_their_differences_with_their_flips():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(12), 10)
    for first in ((rng.random(120) < 0.6).astype(float), rng.random(120)):
        second = np.where(rng.random(120) < 0.3, 1 - first, first)
        binary = set(first) == {0.0, 1.0}
        found = statistics.compare_items(first, second, labels, confidence=0.8)
        expected = statistics.compare_differences(second - first, labels, binary=binary, confidence=0.8)
        assert (found.delta, found.delta_stderr, found.p_value) == (expected.delta, expected.stderr, expected.p_value)
        assert (found.low, found.high, found.n, found.clusters) == (expected.low, expected.high, 120, 12)
        assert found.flips == np.mean(first != second)


def test_two_units_have_an_interval_of_one_degree_of_freedom():
    found = statistics.compare_differences([0.1, 0.5])
    half = scipy.stats.t.ppf(0.975, 1) * 0.2  # deviation 0.4 / sqrt(2), divided by sqrt(2)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(0.3 / 0.2, 1))


def test_sums_of_equal_differences_have_a_p_value_by_their_signs():
    labels = np.repeat(np.arange(12), 2)
    assert statistics.compare_differences([0.25] * 24, labels).p_value == 2.0**-11  # 12 subjects
    assert statistics.compare_differences([0.25] * 24).p_value == 2.0**-23
    assert statistics.compare_differences([0.0] * 24, labels).p_value == 1.0
    equal = statistics.compare_differences([0.25] * 24, labels)
    assert (equal.low, equal.high) == (0.25, 0.25)


def test_degrees_of_freedom_of_a_small_example_and_of_one_cluster():
    # shares 1/2, 1/4, 1/4; by hand: a = share^2 / (1 - share) = 1/2, 1/12, 1/12
    off_diagonal = (8 / 12) ** 2 - (1 / 4 + 2 / 144)
    assert statistics.cluster_freedom([0, 0, 1, 2]) == pytest.approx(1 / (3 / 8 + off_diagonal))
    assert statistics.cluster_freedom(np.repeat(np.arange(5), 3)) == pytest.approx(4)
    with pytest.raises(ValueError, match="two clusters"):
        statistics.cluster_freedom([1, 1])
    assert statistics.cluster_stderr([1.0, 2.0, 6.0], [0, 0, 1]) == pytest.approx(sqrt(9 / (1 / 3) + 9 / (2 / 3)) / 3)


def test_clusters_of_another_length_or_number_are_rejected():
    with pytest.raises(ValueError, match="same length"):
        statistics.cluster_stderr([1.0, 2.0], [0, 1, 2])
    with pytest.raises(ValueError, match="same length"):
        statistics.cluster_stderr([[1.0, 2.0], [3.0, 4.0]], [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="same length"):
        statistics.compare_differences([1.0, 2.0], range(12))
    with pytest.raises(ValueError, match="two clusters"):
        statistics.cluster_stderr([1.0, 2.0], [0, 0])


def quant_differences(clusters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Differences of 0/1 scores of a quant that is better in some subjects and worse in others; the true mean is 0."""
    tilt = rng.uniform(-0.12, 0.12, clusters.max() + 1)[clusters]
    draw = rng.random(len(clusters))
    return np.where(draw < 0.06 + np.maximum(tilt, 0), 1.0, np.where(draw > 0.94 + np.minimum(tilt, 0), -1.0, 0.0))


@pytest.mark.parametrize("clusters", [EQUAL, UNEQUAL, FEW], ids=["equal", "unequal", "few"])
def test_binary_differences_need_the_clustered_error_for_nominal_coverage(clusters):
    rng = np.random.default_rng(len(clusters))
    covered = naive = rejected = naively_rejected = 0
    for _ in range(R):
        row = quant_differences(clusters, rng)
        found = statistics.compare_differences(row, clusters, binary=True)
        plain = statistics.compare_differences(row, binary=True)
        covered += found.low <= 0.0 <= found.high
        naive += plain.low <= 0.0 <= plain.high
        rejected += found.p_value < 0.05
        naively_rejected += plain.p_value < 0.05
    assert 0.95 - 3 * ERROR <= covered / R <= 0.95 + 3 * ERROR
    assert naive / R < 0.93
    assert rejected / R <= 0.05 + 3 * ERROR
    assert naively_rejected / R > 0.07


@pytest.mark.parametrize("clusters", [EQUAL, UNEQUAL, FEW], ids=["equal", "unequal", "few"])
def test_continuous_differences_need_the_clustered_error_for_nominal_coverage(clusters):
    """Differences like those of the right choice's probability: the t interval and the cluster bootstrap."""
    rng = np.random.default_rng(len(clusters) + 1)
    covered = naive = resampled = 0
    for seed in range(R):
        row = rng.normal(0, 0.05, clusters.max() + 1)[clusters] + rng.normal(0, 0.1, len(clusters))
        found = statistics.compare_differences(row, clusters)
        covered += found.low <= 0.0 <= found.high
        plain = statistics.compare_differences(row)
        naive += plain.low <= 0.0 <= plain.high
        if seed < 400:
            means = statistics.bootstrap_means(row, clusters, resamples=400, seed=seed)[0]
            low, high = np.quantile(means, [0.025, 0.975])
            resampled += low <= 0.0 <= high
    # unequal sizes still lose a little: the degrees of freedom assume values that do not correlate within a cluster
    assert 0.95 - 3 * ERROR - (0.012 if clusters is UNEQUAL else 0.0) <= covered / R <= 0.95 + 3 * ERROR
    assert naive / R < 0.75
    # the percentile method ignores that G is small: its undercoverage is about what Student's t would add
    missing = {57: 0.02, 10: 0.06}[int(clusters.max()) + 1] + (0.025 if clusters is UNEQUAL else 0.0)
    assert 0.95 - missing - 3 * sqrt(0.95 * 0.05 / 400) <= resampled / 400 <= 0.95 + 3 * sqrt(0.95 * 0.05 / 400)


def test_cluster_bootstrap_agrees_with_the_robust_error():
    rng = np.random.default_rng(3)
    row = rng.normal(0, 0.3, 57)[UNEQUAL] + rng.normal(0, 1, len(UNEQUAL))
    means = statistics.bootstrap_means(row, UNEQUAL, resamples=4000)[0]
    assert means.std() == pytest.approx(statistics.cluster_stderr(row, UNEQUAL), rel=0.1)
    low, high = statistics.bootstrap_interval([row[g == UNEQUAL] for g in range(57)])
    assert np.quantile(means, [0.025, 0.975]) == pytest.approx([low, high], abs=0.1 * (high - low))


def test_clustering_hardly_changes_the_error_of_independent_items():
    rng = np.random.default_rng(4)
    ratios = []
    for _ in range(200):
        row = rng.choice([-1.0, 0.0, 1.0], p=[0.06, 0.9, 0.04], size=len(EQUAL))
        found, plain = (statistics.compare_differences(row, c, binary=True) for c in (EQUAL, None))
        assert found.delta == plain.delta
        ratios.append(found.stderr / plain.stderr)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
