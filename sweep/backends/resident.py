"""How much memory a model takes in this process: what grew since before it was loaded, at its peak.

Counted are anonymous pages (caches, buffers, weights that were repacked or copied) and those pages of the model's files
that are mapped and resident: not the interpreter's own, nor other mapped files. Where the system does not tell these
apart (anything but Linux's /proc/self/smaps), it is the growth of all resident memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import psutil

_SMAPS = Path("/proc/self/smaps")
_STATUS = Path("/proc/self/status")
# "7f1c-7f2c r--p 00000000 fe:00 1234    /models/m.gguf", then one "Rss:  12 kB" among the lines of that mapping
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")


class ResidentGrowth:
    """Made before `files` are loaded; `sample` whenever memory may be at its highest."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = {str(file.resolve()) for file in files}
        self._before = self._now()
        self._peak = self._before

    def sample(self) -> None:
        self._peak = max(self._peak, self._now())

    @property
    def peak_bytes(self) -> int:
        """The most that any sample was above the time before."""
        return self._peak - self._before

    def _now(self) -> int:
        if not _SMAPS.exists():
            return int(psutil.Process().memory_info().rss)
        return anonymous_bytes(_STATUS.read_text()) + mapped_bytes(_SMAPS.read_text(), self._files)


def anonymous_bytes(status: str) -> int:
    """Anonymous and shared-memory pages of a process, from the text of its /proc/PID/status."""
    sizes = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(sizes[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


def mapped_bytes(smaps: str, files: set[str]) -> int:
    """Resident pages of mappings of `files` (resolved paths), from the text of a /proc/PID/smaps.

    Pages written to are anonymous by then and left out here.
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
