"""Standard errors of items that are grouped by subject.

Items of the same subject correlate, so a task with many subjects has fewer independent answers than items.

Sources:

- Liang and Zeger (1986): the cluster-robust variance.
- Bell and McCaffrey (2002): its small-sample form CR2 with matching degrees of freedom, as Imbens and Kolesar (2016)
  recommend. For G subjects of equal size these are the common CR1 and G - 1. For unequal sizes, such as MMLU's 100 to
  1,534 questions, CR1 is too optimistic.
- Rao and Scott (1992): counts divided by the design effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

# With fewer clusters the variance between them is too uncertain. A group of so few sub-tasks (ARC has two) is also not
# a sample from a population of sub-tasks: the sub-tasks are strata, and their items are treated as independent.
MIN_CLUSTERS = 10
# Questions on one image, by contrast, are never independent, however few images there are: few of them give few degrees
# of freedom and a wide interval.
FEWEST_IMAGES = 2

Labels = NDArray[np.intp]


def usable_clusters(labels: Sequence[str] | ArrayLike | None, fewest: int = MIN_CLUSTERS) -> Labels | None:
    """Cluster numbers 0 .. G - 1, shape (n,), of `labels` (n,); None if there are fewer than `fewest` clusters."""
    if labels is None:
        return None
    names, index = np.unique(np.asarray(labels), return_inverse=True)
    return index if names.size >= fewest else None


def cluster_sums(values: ArrayLike, clusters: Labels) -> NDArray[np.float64]:
    """Sum of the `values` (n,) of each cluster, float64 (G,)."""
    return np.bincount(clusters, np.asarray(values, np.float64)).astype(np.float64)


def cluster_stderr(values: ArrayLike, clusters: ArrayLike) -> float:
    """Cluster-robust (CR2) standard error of the mean of `values` (n,); `clusters` (n,) are the labels of their
    clusters.

    Formula: sqrt(sum over clusters of (sum of residuals)^2 / (1 - size / n)) / n. For clusters of equal size it is the
    standard error of the mean of the cluster means. Raises ValueError for fewer than two clusters or unequal lengths.
    """
    row = np.asarray(values, np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    if row.ndim != 1 or index.shape != row.shape:
        raise ValueError(f"values and clusters must have the same length, got {row.shape} and {index.shape}")
    sums, share = cluster_sums(row - row.mean(), index), _shares(index)
    return float(np.sqrt(np.sum(sums**2 / (1.0 - share))) / row.size)


def cluster_freedom(clusters: ArrayLike) -> float:
    """Degrees of freedom of `cluster_stderr`, after Satterthwaite: G - 1 for equal clusters, fewer for unequal ones.

    Formula: E[v]^2 / (Var[v] / 2) of the variance estimate v, for independent values of equal variance. `clusters` (n,)
    are the cluster labels. Raises ValueError for fewer than two clusters.
    """
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    share = _shares(index)
    # Covariances of the adjusted sums divided by n: share on the diagonal, - share_g share_h / sqrt(...) elsewhere.
    adjusted = share / np.sqrt(1.0 - share)
    off_diagonal = np.sum(adjusted**2) ** 2 - np.sum(adjusted**4)
    return float(1.0 / (np.sum(share**2) + off_diagonal))


def _shares(index: Labels) -> NDArray[np.float64]:
    """Each cluster's share of the values, float64 (G,)."""
    sizes = np.bincount(index)
    if sizes.size < 2:
        raise ValueError("a cluster-robust error needs at least two clusters")
    return np.asarray(sizes / index.size, np.float64)
