"""What a run takes of the machine right now, seen from outside: its workers are children of the process that runs it.

Through psutil, which reads it alike on every system.
"""

from __future__ import annotations

import psutil


def resident_bytes(pid: int) -> int | None:
    """Resident memory of the largest worker below the process that runs a sweep; None where there is none.

    The largest is the one at work: another that is started ahead for the next variant has no model yet.
    """
    try:
        workers = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    return max((size for worker in workers if (size := _resident(worker))), default=None)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended since it was listed
        return 0
