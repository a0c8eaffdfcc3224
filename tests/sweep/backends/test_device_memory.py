"""A process's memory on GPUs is what the driver lists for it, and unknown where it lists nothing. NVML's own Python
binding runs over a small library that answers as nvml.h says; the real one, where there is one, must not disturb.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.backends.base import MemoryUse

COMPILER = shutil.which("cc")
MEASURED = """
import os
from pathlib import Path
from sweep.backends.device_memory import DeviceGrowth

own = Path(os.environ["SAMPLES"])
samples = iter(own.read_text().splitlines())
def next_sample():
    line = next(samples, None)
    if line == "unsupported":
        Path(os.environ["OWN"]).unlink()
    elif line is not None:
        Path(os.environ["OWN"]).write_text(line)
    return line is not None

next_sample()
growth = DeviceGrowth()
while next_sample():
    growth.sample()
print(growth.peak_bytes)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None or sys.platform != "linux":
        pytest.skip("no C compiler, or no Linux")
    directory = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", directory / "libnvidia-ml.so.1", source], check=True)
    return directory


def printed(script: str, library: Path, **environment: Path) -> str:
    own = os.environ | {"LD_LIBRARY_PATH": str(library)} | {name: str(path) for name, path in environment.items()}
    done = subprocess.run([sys.executable, "-c", script], env=own, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (["", "100 20", "150 30", "60 10"], "180"),  # the peak, of both devices together
        (["40 5", "100 20"], "75"),  # what it held before is not the model's
        (["40", "40"], "0"),
        (["", "", ""], "None"),  # never listed: another PID namespace
        (["", "- 20"], "None"),  # WDDM has no figure
        (["", "unsupported"], "None"),
        (["", "100", "unsupported"], "100"),
    ],
)
def test_growth_is_the_drivers_account_of_this_process(library, tmp_path, samples, expected):
    """Each of `samples` is what the driver lists, the first before loading."""
    (tmp_path / "samples").write_text("\n".join(samples))
    assert printed(MEASURED, library, SAMPLES=tmp_path / "samples", OWN=tmp_path / "own") == expected


def test_without_a_driver_nothing_is_said(library):
    script = "from sweep.backends.device_memory import DeviceGrowth\n"
    script += "growth = DeviceGrowth()\ngrowth.sample()\nprint(growth.peak_bytes)"
    assert printed(script, library) == "None"


def test_measured_is_where_the_model_is_placed():
    assert MemoryUse(5, 7).measured_bytes == 7
    assert MemoryUse(5, 7, 11).measured_bytes == 11
    assert MemoryUse(5, 7, None).measured_bytes is None
