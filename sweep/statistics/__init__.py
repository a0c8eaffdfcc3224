"""Statistics of paired measurements: every variant answers the same items, so differences are taken item by item.

Arrays in, numbers out; nothing here reads a file or knows a Record. By subject: `paired` (differences and their tests),
`clusters` (items that share a subject), `bootstrap` (intervals by resampling), `multiple` (many tests at once),
`scores` (perplexity, recovery) and `pareto`.
"""

from __future__ import annotations

from sweep.statistics.bootstrap import bootstrap_interval, bootstrap_means, percentile_interval
from sweep.statistics.clusters import MIN_CLUSTERS, cluster_freedom, cluster_stderr, usable_clusters
from sweep.statistics.multiple import ALPHA, holm
from sweep.statistics.paired import (
    CONFIDENCE,
    HALF_INTERVAL,
    Paired,
    PairedComparison,
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
    "HALF_INTERVAL",
    "MIN_CLUSTERS",
    "Paired",
    "PairedComparison",
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
