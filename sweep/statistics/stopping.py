"""When a measurement over windows of a text, in random order, may stop: looks, intervals and decisions.

The data are looked at after 32, 64, 128, ... windows and after all of them. Two kinds of questions end a measurement:

- Precision: the 95 % interval of the mean is at most so wide. An ordinary interval serves, because one does not stop
  for the value of the mean (Chow and Robbins, 1965, "On the asymptotic theory of fixed-width sequential confidence
  intervals for the mean").
- Decisions: on which side of a bound is the mean, and which of two variants has the lower one? Whoever looks several
  times and stops as soon as an ordinary interval excludes the bound is wrong far more often than in 5 % of the cases.
  Therefore the error of 5 % is divided by all looks and all decisions of the run (Bonferroni). The interval is one of
  the mean's logarithm, whose width follows by the delta method: divergences are positive and skewed.

If windows vary more than `MOST_VARIATION`, neither interval is trusted before all windows are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # scipy loads scipy.special (0.15 s) at its first use, which many processes never reach
from numpy.typing import NDArray

from sweep.statistics.multiple import ALPHA

FIRST_LOOK = 32
MOST_VARIATION = 0.6  # of the coefficient of variation: with more, 32 windows say too little about rare large values

Array = NDArray[np.float64]


def looks(total: int) -> tuple[int, ...]:
    """The numbers of units after which the data of `total` units are looked at: 32, 64, 128, ..., total."""
    found = []
    at = FIRST_LOOK
    while at < total:
        found.append(at)
        at *= 2
    return (*found, total)


def random_order(sha256: str, n: int) -> NDArray[np.intp]:
    """An order of n units that only their content decides, of which `sha256` is a hash."""
    return np.random.default_rng(int(sha256, 16)).permutation(n)


def round_with(count: int) -> int:
    """The number of the round, from 0, that ends with `count` units or more if there are so many."""
    return max(0, math.ceil(math.log2(count / FIRST_LOOK)))


def look_at_least(count: float, total: int) -> int:
    """The first look with at least `count` units, or the last one."""
    return next((look for look in looks(total) if look >= count), total)


@dataclass(frozen=True)
class StopRule:
    """What has to be known of a mean before its measurement stops.

    - `precision`: half the width of its 95 % interval is at most this share of it (0.05: ± 5 %); None: any. 0: the mean
      is that of all units.
    - `bounds`: it is known on which side of each of these values it is.
    - `decisions`: how many decisions a run makes, of all variants together; they share the error of 5 %.
    """

    precision: float | None = None
    bounds: tuple[float, ...] = ()
    decisions: int = 1

    def alpha(self, total: int) -> float:
        """The error of one decision at one look."""
        return ALPHA / (len(looks(total)) * self.decisions)

    def is_met(self, values: Array, total: int) -> bool:
        """Whether the measurement may stop after these values (n,), of `total` in random order."""
        if len(values) >= total:
            return True
        if variation(values) > MOST_VARIATION or self.precision == 0.0:
            return False
        precise = self.precision is None or half_width(values, ALPHA) <= self.precision
        return precise and all(side(values, bound, self.alpha(total)) for bound in self.bounds)

    def next_look(self, values: Array, total: int) -> int:
        """The look at which the rule will probably be met, judged by these values (n,)."""
        if self.precision == 0.0:
            return total
        needed = len(values) + 1.0
        cv = variation(values)
        if cv <= MOST_VARIATION:
            mean = float(values.mean())
            if self.precision is not None:
                needed = max(needed, (_quantile(ALPHA, len(values)) * cv / self.precision) ** 2)
            for bound in self.bounds:
                distance = abs(math.log(mean / bound)) if mean > 0.0 else math.inf
                wide = _quantile(self.alpha(total), len(values)) * cv
                needed = max(needed, (wide / distance) ** 2 if distance > 0.0 else math.inf)
        return look_at_least(needed, total)


ALL_UNITS = StopRule(precision=0.0)
"""Nothing stops before all units are measured."""


def variation(values: Array) -> float:
    """The coefficient of variation of values (n,); 0 if all are equal, infinity if the others have no positive mean."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.inf
    if spread == 0.0:
        return 0.0
    mean = float(values.mean())
    return spread / mean if mean > 0.0 else math.inf


def half_width(values: Array, alpha: float) -> float:
    """Half the width of the interval of the mean with this error, as a share of the mean."""
    return _quantile(alpha, len(values)) * variation(values) / math.sqrt(len(values))


def side(values: Array, bound: float, alpha: float) -> int:
    """On which side of a positive bound the mean of positive values (n,) is: -1 below, 1 above, 0 not known yet."""
    mean = float(values.mean())
    if mean <= 0.0:
        return -1 if variation(values) == 0.0 else 0
    distance, half = math.log(mean / bound), half_width(values, alpha)
    return -1 if distance + half < 0.0 else 1 if distance - half > 0.0 else 0


def order_is_known(a: Array, b: Array, alpha: float, margin: float, unnoticeable: float = 0.0) -> bool:
    """Whether it is known which of two means is lower, from values of the same units (n,), or that they differ by at
    most `margin` as a share of the larger one, or by at most `unnoticeable`."""
    difference = a - b
    delta, spread = abs(float(difference.mean())), float(difference.std(ddof=1))
    half = _quantile(alpha, len(difference)) * spread / math.sqrt(len(difference))
    return delta > half or delta + half <= max(margin * max(float(a.mean()), float(b.mean())), unnoticeable)


def _quantile(alpha: float, n: int) -> float:
    """The two-sided quantile of Student's t distribution for a sample of n."""
    return float(scipy.special.stdtrit(n - 1, 1.0 - alpha / 2.0))
