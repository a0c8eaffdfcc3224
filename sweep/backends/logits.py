"""The log-normalizer of rows of logits, from which single entries of the log-softmax follow.

log p(token) = logit(token) - log sum exp(logits). Logits are float32; sums and results are float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 18  # values per block, so that a block and its exponentials stay in the processor's cache


def log_normalizers(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log sum exp of each row of `logits` (n, n_vocab), float64 (n,)."""
    n, n_vocab = logits.shape
    result = np.empty(n, np.float64)
    step = max(1, BLOCK // n_vocab)
    for start in range(0, n, step):
        rows = logits[start : start + step]
        top = rows.max(axis=1, keepdims=True)
        sums = np.exp(rows - top).sum(axis=1, dtype=np.float64)
        result[start : start + step] = top[:, 0].astype(np.float64) + np.log(sums)
    return result
