"""Divide the cores of the machine among the workers of pytest-xdist.

A worker and its child processes see only their own cores, so torch, OpenMP and `sweep` start one thread for each of
them. Threads of several workers on the same cores would spin while they wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PINS = hasattr(os, "sched_setaffinity")  # macOS and Windows do not let a process choose its cores
ALL = frozenset(os.sched_getaffinity(0)) if PINS else frozenset()


def take_share() -> None:
    """Restrict this process to its share of the cores. Without pytest-xdist it keeps all of them."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if PINS and worker:
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        shares = min(count, len(ALL))
        os.sched_setaffinity(0, sorted(ALL)[int(worker.removeprefix("gw")) % shares :: shares])


@contextmanager
def every_core() -> Iterator[None]:
    """Processes that are started inside this block see all cores, as a user's processes do."""
    before = os.sched_getaffinity(0) if PINS else frozenset()
    if PINS:
        os.sched_setaffinity(0, ALL)
    try:
        yield
    finally:
        if PINS:
            os.sched_setaffinity(0, before)
