"""Statistics of paired measurements: every variant answers the same items, so differences are computed item by item.

The functions take arrays and return numbers; none reads a file or depends on a Record. The modules are:

- `paired`: differences between two variants and their significance tests;
- `clusters`: standard errors of items that are grouped by subject or image;
- `bootstrap`: intervals by resampling;
- `multiple`: correction for several tests;
- `scores`: perplexity and recovery;
- `pareto`: the Pareto set.
"""

from __future__ import annotations

from sweep.statistics.bootstrap import bootstrap_interval, bootstrap_means, percentile_interval
from sweep.statistics.clusters import FEWEST_IMAGES, MIN_CLUSTERS, cluster_freedom, cluster_stderr, usable_clusters
from sweep.statistics.multiple import ALPHA, holm
from sweep.statistics.paired import (
    CONFIDENCE,
    HALF_INTERVAL,
    PairedComparison,
    PairedDifference,
    compare_differences,
    compare_items,
    flips,
    mcnemar,
    paired_delta,
    sign_flip_test,
)
from sweep.statistics.pareto import pareto_set
from sweep.statistics.scores import perplexity, recovery, recovery_stderr

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "FEWEST_IMAGES",
    "HALF_INTERVAL",
    "MIN_CLUSTERS",
    "PairedComparison",
    "PairedDifference",
    "bootstrap_interval",
    "bootstrap_means",
    "cluster_freedom",
    "cluster_stderr",
    "compare_differences",
    "compare_items",
    "flips",
    "holm",
    "mcnemar",
    "paired_delta",
    "pareto_set",
    "percentile_interval",
    "perplexity",
    "recovery",
    "recovery_stderr",
    "sign_flip_test",
    "usable_clusters",
]
