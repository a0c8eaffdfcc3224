"""What perplexity and divergence need of each row of logits: its log-normalizer and its most probable token.

One pass for the maximum, one for the exponentials, each over a block that stays in the cache. Rows are independent, so
`over_rows` gives slices of them to the threads of a pool; numpy works outside of Python's lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 18  # values of a block, 1 MiB: at large vocabularies one row
SLICE = 16  # rows of a slice at least: fewer are not worth a thread's turn

Result = TypeVar("Result")


@dataclass(frozen=True)
class RowSummary:
    """Of n rows: log sum exp, float64 (n,), not finite where a logit is not a number; the first token of the largest
    logit, int64 (n,)."""

    normalizers: NDArray[np.float64]
    top: NDArray[np.intp]


def summarize_rows(logits: NDArray[np.float32]) -> RowSummary:
    """Of logits float32 (n, n_vocab). Sums of float32 exponentials are pairwise: off by about 1e-7 of themselves."""
    n, n_vocab = logits.shape
    step = max(1, BLOCK // n_vocab)
    buffer = np.empty((min(step, n), n_vocab), np.float32)
    normalizers, top = np.empty(n, np.float64), np.empty(n, np.intp)
    for start in range(0, n, step):
        rows = logits[start : start + step]
        here = slice(start, start + len(rows))
        top[here] = rows.argmax(axis=1)  # a NaN is its row's largest
        largest = rows[np.arange(len(rows)), top[here]]
        exponentials = buffer[: len(rows)]
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(rows, largest[:, None], out=exponentials)
            np.exp(exponentials, out=exponentials)
            normalizers[here] = largest.astype(np.float64) + np.log(exponentials.sum(axis=1).astype(np.float64))
    return RowSummary(normalizers, top)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_rows(pool: Executor, threads: int, n: int, work: Callable[[slice], Result]) -> Iterator[tuple[slice, Result]]:
    """`work` of consecutive slices of n rows, in their order."""
    step = max(SLICE, -(-n // (2 * threads)))
    slices = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    return zip(slices, pool.map(work, slices), strict=True)
