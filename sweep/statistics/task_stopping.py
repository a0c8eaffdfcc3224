"""When the comparison of a variant with its reference over a task's items, in random order, may stop.

The data are looked at eight times, after every eighth of the items. A comparison ends for one of two reasons:

- It cannot become a loss any more (futility): if the remaining items are completed at random from what is known so far,
  hardly ever is the loss significant in the end. Such a test counts as one with p = 1, so stopping never makes a loss
  of what is none. It overlooks a loss that all items would show in at most about `FUTILITY` of the cases.
- It is a loss already (stochastic curtailment; Lan, Simon and Halperin, 1982, "Stochastically curtailed tests in
  long-term clinical trials"): even if every changed item to come were as likely won as lost, it would be significant in
  the end. If that has a probability of at least `CERTAIN` under the null hypothesis, the error is at most the test's
  level divided by `CERTAIN`, however often one looks; the level is lowered by this factor. The level is Bonferroni's,
  because the results of the run's other tests are not known yet.

Scores have to be 0 or 1 for each item: the exact test needs that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy  # scipy loads scipy.special (0.15 s) at its first use, which many processes never reach
from numpy.typing import ArrayLike, NDArray

from sweep.statistics.clusters import MIN_CLUSTERS, cluster_sums, usable_clusters
from sweep.statistics.multiple import ALPHA
from sweep.statistics.paired import sign_flip_test

LOOKS = 8
FEWEST_ITEMS = 32
FUTILITY = 0.01
CERTAIN = 0.95
COMPLETIONS = 1000
CLUSTERED_COMPLETIONS = 300  # their test takes about a millisecond each

Array = NDArray[np.float64]
Labels = NDArray[np.intp]


class TaskEnding(StrEnum):
    """Why a comparison ended."""

    ALL_ITEMS = "all items"
    NO_LOSS = "cannot become a loss"
    LOSS = "a loss is certain"


def task_looks(total: int) -> tuple[int, ...]:
    """The numbers of items after which the answers to `total` items are looked at."""
    step = max(FEWEST_ITEMS, math.ceil(total / LOOKS))
    return (*range(step, total, step), total)


def stratified_order(strata: Sequence[str], seed: int) -> list[int]:
    """A random order of units with these `strata` (n,), as indices.

    It begins with a unit of each stratum. Further on, every stratum is spread evenly, so that the first units of the
    order contain all strata in about the shares that they have of all.
    """
    rng = np.random.default_rng(seed)
    names, index = np.unique(np.asarray(strata, dtype=str), return_inverse=True)
    places = np.empty(len(index))
    for stratum in range(len(names)):
        own = rng.permutation(np.flatnonzero(index == stratum))
        places[own] = (np.arange(len(own)) + rng.random(len(own))) / len(own)
        places[own[0]] -= 1.0
    return [int(i) for i in np.argsort(places, kind="stable")]


@dataclass(frozen=True)
class TaskStopRule:
    """`tests` is how many comparisons a run makes, over all variants and tasks together."""

    tests: int = 1

    @property
    def level(self) -> float:
        """The level of the test that a loss has to pass to end early, which is also the p value it then counts with."""
        return CERTAIN * ALPHA / max(1, self.tests)

    def ending(
        self, differences: ArrayLike, clusters: Sequence[str] | None, total: int, fewest: int = MIN_CLUSTERS
    ) -> TaskEnding | None:
        """Why the comparison ends after these `differences` (n,), variant minus reference, of -1, 0 or 1; None if it
        goes on.

        `clusters` (total,) are the subjects or images of all items, first those of the differences. With at least
        `fewest` of them, the final test flips the signs of whole clusters, and only futility ends it early.
        """
        row = np.asarray(differences, np.float64)
        if len(row) >= total:
            return TaskEnding.ALL_ITEMS
        if not len(row) or not np.isin(row, (-1.0, 0.0, 1.0)).all():
            return None
        rng = np.random.default_rng(len(row))  # the same answers give the same stop
        index = usable_clusters(clusters, fewest)
        if index is not None:
            return TaskEnding.NO_LOSS if _clustered_futility(row, index, total, rng) <= FUTILITY else None
        lost, won = int(np.sum(row < 0)), int(np.sum(row > 0))
        b, c = _completed(lost, won, len(row), total, rng)
        if float(np.mean((_exact_p(b, c) <= ALPHA) & (b > c))) <= FUTILITY:
            return TaskEnding.NO_LOSS
        changed = b + c - lost - won
        ups = rng.binomial(changed, 0.5)
        b, c = lost + changed - ups, won + ups
        if float(np.mean((_exact_p(b, c) <= self.level) & (b > c))) >= CERTAIN:
            return TaskEnding.LOSS
        return None


def _rates(lost: int, won: int, n: int, size: int, rng: np.random.Generator) -> Array:
    """Draws (size, 3) of the probabilities that an item is lost, won or unchanged, from their posterior distribution
    with half an item of each change and one without as the prior."""
    return rng.dirichlet((lost + 0.5, won + 0.5, n - lost - won + 1.0), size)


def _completed(lost: int, won: int, n: int, total: int, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """The numbers of lost and won items in the end, by completion."""
    more = rng.multinomial(total - n, _rates(lost, won, n, COMPLETIONS, rng))
    return lost + more[:, 0], won + more[:, 1]


def _exact_p(lost: Labels, won: Labels) -> Array:
    """The two-sided p values of McNemar's exact test."""
    return np.minimum(1.0, 2.0 * scipy.special.bdtr(np.minimum(lost, won), lost + won, 0.5))


def _clustered_futility(row: Array, index: Labels, total: int, rng: np.random.Generator) -> float:
    """The share of completions in which the test that flips whole clusters shows a loss."""
    n = len(row)
    known = cluster_sums(row, index[:n])
    known = np.pad(known, (0, int(index.max()) + 1 - len(known)))
    sizes = np.bincount(index[n:total], minlength=len(known))
    losses = 0
    for rates in _rates(int(np.sum(row < 0)), int(np.sum(row > 0)), n, CLUSTERED_COMPLETIONS, rng):
        more = rng.multinomial(sizes, rates)
        sums = known + more[:, 1] - more[:, 0]
        losses += sums.sum() < 0 and sign_flip_test(sums) <= ALPHA
    return losses / CLUSTERED_COMPLETIONS
