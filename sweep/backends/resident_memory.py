"""Measures the RAM of a model in this process: its growth since before loading, at the peak.

Two kinds of pages count: anonymous pages (caches, buffers, weights that were repacked or copied), and resident pages of
the model's mapped files. Other mapped files and the interpreter do not count. On systems without Linux's
/proc/self/smaps, the growth of all resident memory counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import psutil

_SMAPS = Path("/proc/self/smaps")
_STATUS = Path("/proc/self/status")
# "7f1c-7f2c r--p 00000000 fe:00 1234    /models/m.gguf", followed by lines such as "Rss:  12 kB" about that mapping
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")


class ResidentGrowth:
    """Create it before loading `files`, and call `sample` whenever the memory in use may be at its peak."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = {str(file.resolve()) for file in files}
        self._before = self._now()
        self._peak = self._before

    def sample(self) -> None:
        self._peak = max(self._peak, self._now())

    @property
    def peak_bytes(self) -> int:
        """The largest growth of all samples, in bytes."""
        return self._peak - self._before

    def _now(self) -> int:
        if not _SMAPS.exists():
            return int(psutil.Process().memory_info().rss)
        return anonymous_bytes(_STATUS.read_text()) + mapped_bytes(_SMAPS.read_text(), self._files)


def anonymous_bytes(status: str) -> int:
    """Bytes of anonymous and shared-memory pages of a process, from the text of its /proc/PID/status."""
    sizes = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(sizes[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


def mapped_bytes(smaps: str, files: set[str]) -> int:
    """Bytes of resident pages of mappings of `files` (resolved paths), from the text of a /proc/PID/smaps.

    Pages that were written to are not counted here, because they are anonymous.
    """
    total = 0
    inside = False
    for line in smaps.splitlines():
        mapping = _MAPPING.match(line)
        if mapping is not None:
            inside = mapping[1] in files
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
        elif inside and line.startswith("Anonymous:"):
            total -= int(line.split()[1]) << 10
    return total
