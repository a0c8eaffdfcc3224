"""Measures the bandwidth of this machine's RAM, as the STREAM benchmark's Copy does: bytes read plus bytes written."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

PIECE = 64 << 20  # bytes that each thread copies at once: more than caches hold
REPEATS = 3


def measure_ram_bandwidth(threads: int) -> float:
    """Bytes per second, the best of three copies by this number of threads."""
    sources = [np.ones(PIECE // 8) for _ in range(threads)]
    targets = [np.zeros(PIECE // 8) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            start = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best = max(best, 2 * PIECE * threads / (time.perf_counter() - start))
    return best
