"""The cores of the machine, shared out among the workers of pytest-xdist.

A worker and every process that it starts see only their share, so that torch, OpenMP and `sweep` itself take as many
threads as it has cores. Threads of several workers on the same cores would spin while they wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PINS = hasattr(os, "sched_setaffinity")  # macOS and Windows leave the placing of threads to themselves
ALL = frozenset(os.sched_getaffinity(0)) if PINS else frozenset()


def take_share() -> None:
    """Keep this process to its share of the cores; without pytest-xdist that is all of them."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if PINS and worker:
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        shares = min(count, len(ALL))
        os.sched_setaffinity(0, sorted(ALL)[int(worker.removeprefix("gw")) % shares :: shares])


@contextmanager
def every_core() -> Iterator[None]:
    """Processes that are started inside see the whole machine, as those of a user do."""
    before = os.sched_getaffinity(0) if PINS else frozenset()
    if PINS:
        os.sched_setaffinity(0, ALL)
    try:
        yield
    finally:
        if PINS:
            os.sched_setaffinity(0, before)
