"""The memory of a model is measured apart from other memory of the process; the tests allocate known sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweep.backends.resident_memory import mapped_bytes

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


def test_only_unmodified_pages_of_the_given_files_count():
    assert mapped_bytes(SMAPS, {"/models/my model.gguf"}) == (1024 - 24 + 100) << 10
    assert mapped_bytes(SMAPS, {"/models/other.gguf"}) == 0


MEASURED = """
import mmap, sys
from pathlib import Path
import numpy as np
from sweep.backends.resident_memory import ResidentGrowth

growth = ResidentGrowth([Path(sys.argv[1])])
held, maps = np.ones(32 << 20, np.uint8), []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    assert sum(maps[-1][page] for page in range(0, len(maps[-1]), 4096)) >= 0  # touched
growth.sample()
del held, maps
growth.sample()
print(growth.peak_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the growth of all resident memory")
def test_anonymous_memory_and_the_models_mapped_pages_are_counted(tmp_path: Path):
    files = [tmp_path / "model.gguf", tmp_path / "other.bin"]
    for path in files:
        path.write_bytes(bytes(range(256)) * 4096 * 24)  # 24 MiB
    done = subprocess.run([sys.executable, "-c", MEASURED, *files], check=True, capture_output=True, text=True)
    assert int(done.stdout) == pytest.approx((32 + 24) * MIB, rel=0.05)
