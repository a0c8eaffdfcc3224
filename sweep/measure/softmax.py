"""The log-normalizer and the most probable token of each row of logits, which perplexity and divergence need.

One pass finds the maximum and one computes the exponentials, each over a block that stays in the processor's cache.
Rows are independent, so `map_rows` divides them among the threads of a pool; numpy releases Python's global lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 18  # values per block (1 MiB); with a large vocabulary a block is one row
SLICE = 16  # minimum rows per slice: with fewer the overhead of a thread is larger than its gain

Result = TypeVar("Result")


@dataclass(frozen=True)
class RowSummary:
    """Summary of n rows of logits.

    `normalizers` float64 (n,) is log sum exp; it is not finite if a logit is nan. `top` int64 (n,) is the first token
    with the largest logit.
    """

    normalizers: NDArray[np.float64]
    top: NDArray[np.intp]


def summarize_rows(logits: NDArray[np.float32]) -> RowSummary:
    """Summary of `logits` float32 (n, n_vocab). Sums are pairwise in float32, with a relative error of about 1e-7."""
    n, n_vocab = logits.shape
    step = max(1, BLOCK // n_vocab)
    buffer = np.empty((min(step, n), n_vocab), np.float32)
    normalizers, top = np.empty(n, np.float64), np.empty(n, np.intp)
    for start in range(0, n, step):
        rows = logits[start : start + step]
        here = slice(start, start + len(rows))
        top[here] = rows.argmax(axis=1)  # argmax treats nan as the largest value of its row
        largest = rows[np.arange(len(rows)), top[here]]
        exponentials = buffer[: len(rows)]
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(rows, largest[:, None], out=exponentials)
            np.exp(exponentials, out=exponentials)
            normalizers[here] = largest.astype(np.float64) + np.log(exponentials.sum(axis=1).astype(np.float64))
    return RowSummary(normalizers, top)


def available_cores() -> int:
    """Number of logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_rows(pool: Executor, threads: int, n: int, work: Callable[[slice], Result]) -> Iterator[tuple[slice, Result]]:
    """Calls `work` with slices of n rows on the threads of `pool`; yields each slice and its result, in order."""
    step = max(SLICE, -(-n // (2 * threads)))
    slices = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    return zip(slices, pool.map(work, slices), strict=True)
