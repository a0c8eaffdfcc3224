"""Resampling, compared with plain loops, closed forms and enumeration."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.stats

from sweep.statistics.bootstrap import bootstrap_interval, bootstrap_means, percentile_interval


def test_a_bootstrap_interval_is_that_of_a_plain_loop() -> None:
    """Two to five groups of equal and of unequal sizes."""
    for groups in ([[1, 2], [4, 9]], [[1], [2, 7, 4], [5, 5]], [3, 1, 4, 1, 5]):
        rows = [np.atleast_1d(np.array(group, float)) for group in groups]
        picks = np.random.default_rng(4).integers(0, len(rows), (50, len(rows)))
        values = np.array([np.concatenate([rows[i] for i in pick]).max() for pick in picks])
        found = bootstrap_interval(groups, lambda row: float(row.max()), confidence=0.8, resamples=50, seed=4)
        assert found == percentile_interval(values, len(rows), confidence=0.8)
    given: list[np.ndarray] = []
    bootstrap_interval([[1, 2], [3, 4]], lambda row: float(given.append(row) or row.mean()), resamples=3)
    assert [(row.shape, row.dtype) for row in given] == [((4,), np.float64)] * 3
    rows = np.arange(9.0)
    default = bootstrap_interval(rows)
    assert default == bootstrap_interval(rows, np.mean, confidence=0.95, resamples=1000, seed=0)
    assert default != bootstrap_interval(rows, seed=1)
    with pytest.raises(ValueError, match="at least two groups, got 1"):
        bootstrap_interval([[1, 2, 3]])


def test_the_percentiles_are_expanded_by_hesterbergs_formula() -> None:
    values = np.arange(1001.0)
    for groups, confidence in ((2, 0.8), (3, 0.95), (10, 0.95), (40, 0.9)):
        low, high = percentile_interval(values, groups, confidence=confidence)
        quantile = scipy.stats.t.ppf((1 - confidence) / 2, groups - 1) * np.sqrt(groups / (groups - 1))
        assert low == pytest.approx(1000 * scipy.stats.norm.cdf(quantile))
        assert high == pytest.approx(1000 - low)
    assert percentile_interval(values, 10) == percentile_interval(values, 10, confidence=0.95)


def test_a_resample_without_a_value_can_be_at_both_ends() -> None:
    values = np.array([np.nan, *np.arange(1.0, 100)])
    tail = scipy.stats.norm.cdf(scipy.stats.t.ppf(0.1, 9) * np.sqrt(10 / 9))  # 0.0725: 7 values are below the low end
    assert percentile_interval(values, 10, confidence=0.8) == (np.floor(99 * tail), 100 - np.floor(99 * tail))
    values[:20] = np.nan
    assert percentile_interval(values, 10, confidence=0.8) == (-np.inf, np.inf)


def test_means_of_resamples_are_those_of_items_drawn_with_replacement() -> None:
    """Exact expectations: the mean, and the variance of the mean, of items and of clusters."""
    rows = np.array([[0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0]])
    means = bootstrap_means(rows, resamples=4000, seed=2)
    assert means.shape == (2, 4000)
    assert means.mean(1) == pytest.approx(rows.mean(1), abs=0.015)
    assert means.var(1) == pytest.approx(rows.var(1) / 6, rel=0.1)
    covariance = np.cov(rows, bias=True)[0, 1] / 6
    assert np.cov(means)[0, 1] == pytest.approx(covariance, rel=0.15)
    assert np.allclose(means * 6, np.rint(means * 6))  # each is a mean of six items
    clustered = bootstrap_means([[1, 1, 4, 7, 7]], ["a", "a", "b", "c", "c"], resamples=3000)
    # clusters a, b and c with the sums 2, 4 and 14 and the sizes 2, 1 and 2, three draws each
    possible = {
        round((2 * a + 4 * b + 14 * c) / (2 * a + b + 2 * c), 9)
        for a in range(4)
        for b in range(4 - a)
        for c in (3 - a - b,)
    }
    assert {round(float(value), 9) for value in clustered[0]} == possible
    assert np.mean(clustered[0] == 1.0) == pytest.approx(1 / 27, abs=0.015)  # three times cluster a


def test_means_of_resamples_have_a_seed_and_need_two_units() -> None:
    rows = [[0.0, 1.0, 2.0]]
    assert bootstrap_means(rows).shape == (1, 2000)
    assert np.array_equal(bootstrap_means(rows), bootstrap_means(rows, seed=0))
    assert not np.array_equal(bootstrap_means(rows), bootstrap_means(rows, seed=1))
    assert bootstrap_means([0.0, 1.0]).shape == (1, 2000)
    assert set(bootstrap_means([True, False], resamples=50)[0]) == {0.0, 0.5, 1.0}
    assert bootstrap_means([[1, 2, 3]], [0, 0, 1]).shape == (1, 2000)
    with pytest.raises(ValueError, match="at least two groups, got 1"):
        bootstrap_means([[5.0]])
    with pytest.raises(ValueError, match="at least two groups, got 1"):
        bootstrap_means([[5.0, 6.0]], ["a", "a"])
    with pytest.raises(ValueError, match=re.escape("got (1, 3) and (2,)")):
        bootstrap_means(rows, ["a", "b"])
