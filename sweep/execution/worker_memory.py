"""The memory that a run's workers use now. Workers are found as child processes of the process that runs the sweep.

psutil reads it in the same way on every system.
"""

from __future__ import annotations

import psutil


def resident_bytes(pid: int) -> int | None:
    """Resident memory of the largest worker of the process that runs a sweep; None if it has no worker.

    The largest worker is the one that runs a job: a worker that is started ahead for the next variant has no model yet.
    """
    try:
        workers = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    return max((size for worker in workers if (size := _resident(worker))), default=None)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended after it was listed
        return 0
