"""What a part of a process costs, written to a file. Imports nothing but the standard library. Linux only."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def costs_written(file: Path) -> Iterator[None]:
    """Write what the block costs as JSON: `seconds`, `cpu_seconds`, and `before`, the anonymous bytes before it."""
    before, start, cpu = _anonymous(), time.perf_counter(), _cpu_seconds()
    yield
    found = {"seconds": time.perf_counter() - start, "cpu_seconds": _cpu_seconds() - cpu, "before": before}
    file.write_text(json.dumps(found))


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
