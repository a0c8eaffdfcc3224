"""How often 95 % intervals contain the true value, and 5 % tests reject a true hypothesis: a simulation.

    python benchmarks/coverage.py [--repetitions 4000]

It tests sweep.statistics and prints the table of docs/statistics.md. For clustered data the table also shows the result
of an analysis that treats items as independent. A share of 0.95 over R repetitions has a Monte Carlo error of sqrt(0.95
x 0.05 / R): 0.0034 for 4,000.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from sweep import statistics
from sweep.statistics import PairedDifference, compare_differences

Row = NDArray[np.float64]
EQUAL = np.repeat(np.arange(57), 20)
# shares like those of MMLU's 57 test sets, 100 to 1,534 questions, scaled down by ten
UNEQUAL = np.repeat(np.arange(57), [10] * 14 + [12] * 10 + [15] * 10 + [20] * 9 + [30] * 8 + [40, 60, 60, 78, 90, 153])
FEW = np.repeat(np.arange(statistics.MIN_CLUSTERS), 40)


def line(name: str, truth: float, found: Iterator[tuple[PairedDifference, PairedDifference | None]]) -> str:
    """A row: coverage and, if there is no true difference, how often the test rejects; then the naive analysis."""
    pairs = list(found)
    cells = []
    for which in (0, 1):
        results = [pair[which] for pair in pairs]
        known = [result for result in results if result is not None]
        if not known:
            cells += ["", ""]
            continue
        cells.append(f"{100 * np.mean([r.low <= truth <= r.high for r in known]):.1f}")
        cells.append(f"{100 * np.mean([r.p_value < 0.05 for r in known]):.1f}" if truth == 0.0 else "")
    return f"| {name} | {' | '.join(cells)} |"


def counts(
    rng: np.random.Generator, repetitions: int, n: int, lost: float, won: float
) -> Iterator[tuple[PairedDifference, None]]:
    for b, c, same in rng.multinomial(n, [lost, won, 1 - lost - won], size=repetitions):
        yield compare_differences(np.repeat([-1.0, 1.0, 0.0], [b, c, same]), binary=True), None


def windows(rng: np.random.Generator, repetitions: int, n: int) -> Iterator[tuple[PairedDifference, None]]:
    """Skewed like divergences per window, and shifted so that the mean is 0."""
    for row in rng.gamma(4.0, 0.25, (repetitions, n)) - 1.0:
        yield compare_differences(row), None


def clustered(
    rng: np.random.Generator, repetitions: int, clusters: NDArray[np.intp], *, binary: bool
) -> Iterator[tuple[PairedDifference, PairedDifference]]:
    """A quant that is better on some subjects and worse on others, with a mean difference of 0."""
    groups = int(clusters.max()) + 1
    for _ in range(repetitions):
        if binary:
            tilt, draw = rng.uniform(-0.12, 0.12, groups)[clusters], rng.random(len(clusters))
            won, lost = draw < 0.06 + np.maximum(tilt, 0), draw > 0.94 + np.minimum(tilt, 0)
            row: Row = won.astype(float) - lost
        else:
            row = rng.normal(0, 0.05, groups)[clusters] + rng.normal(0, 0.1, len(clusters))
        yield compare_differences(row, clusters, binary=binary), compare_differences(row, binary=binary)


def bootstrapped(rng: np.random.Generator, repetitions: int, n: int) -> Iterator[tuple[PairedDifference, None]]:
    """The difference of two variants on n windows, by the paired bootstrap. Windows are equally hard for both."""
    for seed in range(repetitions):
        hard = rng.gamma(1.5, 1.0, n)
        rows = np.stack([hard * rng.gamma(20, 0.05, n), hard * rng.gamma(20, 0.05, n)])
        means = statistics.bootstrap_means(rows, resamples=1000, seed=seed)
        drawn = means[1] - means[0]
        low, high = statistics.percentile_interval(drawn, n)
        p_value = 0.0 if low > 0.0 or high < 0.0 else 1.0
        yield PairedDifference(float(rows[1].mean() - rows[0].mean()), float(drawn.std()), low, high, p_value, n), None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=4000)
    repetitions: int = parser.parse_args().repetitions
    print("| differences | covered, % | rejected, % | naive: covered, % | naive: rejected, % |")
    print("|---|---|---|---|---|")
    for n, lost, won in ((1000, 0.05, 0.05), (1000, 0.1, 0.05), (200, 0.05, 0.02), (50, 0.1, 0.1), (200, 0.01, 0.01)):
        name = f"{n} items, {100 * lost:g} % lost, {100 * won:g} % won"
        print(line(name, won - lost, counts(np.random.default_rng(0), repetitions, n, lost, won)))
    for n in (12, 124):
        print(line(f"{n} windows", 0.0, windows(np.random.default_rng(1), repetitions, n)))
        print(line(f"{n} windows, paired bootstrap", 0.0, bootstrapped(np.random.default_rng(2), repetitions, n)))
    for name, clusters in (("57 equal subjects", EQUAL), ("57 unequal subjects", UNEQUAL), ("10 subjects", FEW)):
        for binary, what in ((True, "right or wrong"), (False, "a continuous figure")):
            found = clustered(np.random.default_rng(3), repetitions, clusters, binary=binary)
            print(line(f"{name}, {what}", 0.0, found))
    print(f"\nMonte Carlo error: {100 * sqrt(0.95 * 0.05 / repetitions):.2f} points.")


if __name__ == "__main__":
    main()
