"""Items that share a subject are alike, so a task of many subjects has fewer independent answers than items.

Sources: Liang and Zeger (1986) for the cluster-robust variance; Bell and McCaffrey (2002) for its small-sample form CR2
and the degrees of freedom that go with it, as Imbens and Kolesar (2016) recommend: where subjects are of one size they
are the common CR1 and G - 1, where sizes differ as MMLU's do (100 to 1,534 questions) CR1 promises too much; Rao and
Scott (1992) for counts divided by the design effect.
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
    """Cluster-robust (CR2) standard error of the mean of `values` (n,), with `clusters` (n,) naming each one's cluster.

    sqrt(sum over clusters of (sum of residuals)^2 / (1 - size / n)) / n. With equal clusters it is the standard error
    of the mean of the cluster means. Raises ValueError for fewer than two clusters.
    """
    row = np.asarray(values, np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    if row.ndim != 1 or index.shape != row.shape:
        raise ValueError(f"every value needs its cluster, got {row.shape} and {index.shape}")
    sums, share = cluster_sums(row - row.mean(), index), _shares(index)
    return float(np.sqrt(np.sum(sums**2 / (1.0 - share))) / row.size)


def cluster_freedom(clusters: ArrayLike) -> float:
    """Degrees of freedom of `cluster_stderr`, after Satterthwaite: G - 1 for equal clusters, fewer for unequal ones.

    E[v]^2 / (Var[v] / 2) of the variance estimate v, for independent values of equal variance.
    """
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    share = _shares(index)
    # covariances of the adjusted sums, over n: share on the diagonal, - share_g share_h / sqrt(...) off it
    adjusted = share / np.sqrt(1.0 - share)
    off_diagonal = np.sum(adjusted**2) ** 2 - np.sum(adjusted**4)
    return float(1.0 / (np.sum(share**2) + off_diagonal))


def _shares(index: Labels) -> NDArray[np.float64]:
    """Each cluster's share of the values."""
    sizes = np.bincount(index)
    if sizes.size < 2:
        raise ValueError("a cluster-robust error needs at least two clusters")
    return np.asarray(sizes / index.size, np.float64)
