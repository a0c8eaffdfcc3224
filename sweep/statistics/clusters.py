"""Items that share a subject are alike, so a task of many subjects has fewer independent answers than items.

Sources: Liang and Zeger (1986) for the cluster-robust variance, with the small-sample factor G / (G - 1) that Stata and
statsmodels call CR1; Cameron, Gelbach and Miller (2008) for t with G - 1 degrees of freedom where clusters are few; Rao
and Scott (1992) for counts divided by the design effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Below this the variance between clusters is itself hardly known, and a group of so few sub-tasks (ARC's two) was not
# drawn from a population of such sub-tasks: they are strata, and their items are taken as independent.
MIN_CLUSTERS = 10

Labels = NDArray[np.intp]


def usable_clusters(labels: Sequence[str] | ArrayLike | None) -> Labels | None:
    """Cluster numbers 0 .. G - 1, shape (n,), or None where fewer than MIN_CLUSTERS are told apart."""
    if labels is None:
        return None
    names, index = np.unique(np.asarray(labels), return_inverse=True)
    return index if names.size >= MIN_CLUSTERS else None


def cluster_sums(values: ArrayLike, clusters: Labels) -> NDArray[np.float64]:
    """Sum of the values of each cluster, shape (G,)."""
    return np.bincount(clusters, np.asarray(values, np.float64)).astype(np.float64)


def cluster_stderr(values: ArrayLike, clusters: ArrayLike) -> float:
    """Cluster-robust (CR1) standard error of the mean of `values` (n,), with `clusters` (n,) naming each one's cluster.

    sqrt(G / (G - 1) * sum over clusters of (sum of residuals)^2) / n. With equal clusters it is the standard error of
    the mean of the cluster means. Raises ValueError for fewer than two clusters.
    """
    row = np.asarray(values, np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    if row.ndim != 1 or index.shape != row.shape:
        raise ValueError(f"every value needs its cluster, got {row.shape} and {index.shape}")
    sums = cluster_sums(row - row.mean(), index)
    if sums.size < 2:
        raise ValueError("a cluster-robust error needs at least two clusters")
    return float(np.sqrt(sums.size / (sums.size - 1) * np.sum(sums**2)) / row.size)
