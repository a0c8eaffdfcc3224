"""What a model takes is told from what else the process holds. The oracle is memory of known sizes."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from sweep.backends.resident import ResidentGrowth, mapped_bytes

MIB = 1 << 20
SMAPS = """\
7f0000000000-7f0000400000 r--s 00000000 fe:00 77                         /models/my model.gguf
Size:               4096 kB
Rss:                1024 kB
Pss:                1024 kB
Anonymous:            24 kB
7f0000400000-7f0000800000 r--s 00400000 fe:00 77                         /models/my model.gguf
Rss:                 100 kB
Anonymous:             0 kB
7f0000800000-7f0000900000 r-xp 00000000 fe:00 12                         /usr/lib/libc.so.6
Rss:                 900 kB
7f0000900000-7f0000a00000 rw-p 00000000 00:00 0
Rss:                 500 kB
Anonymous:           500 kB
"""


def test_only_pages_of_the_named_files_count_and_those_written_to_are_not_theirs():
    assert mapped_bytes(SMAPS, {"/models/my model.gguf"}) == (1024 - 24 + 100) << 10
    assert mapped_bytes(SMAPS, {"/models/other.gguf"}) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the growth of all resident memory")
def test_anonymous_memory_and_the_models_mapped_pages_are_counted(tmp_path: Path):
    model, other = tmp_path / "model.gguf", tmp_path / "other.bin"
    for path in (model, other):
        path.write_bytes(bytes(range(256)) * 4096 * 24)  # 24 MiB
    growth = ResidentGrowth([model])
    held = np.ones(32 * MIB, np.uint8)
    maps = []
    for path in (model, other):
        with path.open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        assert sum(maps[-1][page] for page in range(0, 24 * MIB, 4096)) >= 0  # touched
    growth.sample()
    del held
    for each in maps:
        each.close()
    growth.sample()
    assert growth.peak_bytes == pytest.approx(56 * MIB, rel=0.05)
