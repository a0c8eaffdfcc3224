"""The GPU memory of a process is what the driver lists for it, and unknown if the driver lists nothing.

NVML's own Python binding loads a small test library that behaves as nvml.h says. A real NVML does not interfere.
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
        (["", "100 20", "150 30", "60 10"], "180"),  # the peak of both devices together
        (["40 5", "100 20"], "75"),  # memory in use before loading does not count
        (["40", "40"], "0"),
        (["", "", ""], "None"),  # never listed: another PID namespace
        (["", "- 20"], "None"),  # WDDM has no figure
        (["", "unsupported"], "None"),
        (["", "100", "unsupported"], "100"),
    ],
)
def test_growth_follows_the_drivers_figures_of_this_process(library, tmp_path, samples, expected):
    """`samples` are what the driver lists at each sample; the first one is before loading."""
    (tmp_path / "samples").write_text("\n".join(samples))
    assert printed(MEASURED, library, SAMPLES=tmp_path / "samples", OWN=tmp_path / "own") == expected


def test_growth_is_unknown_without_a_driver(library):
    script = "from sweep.backends.device_memory import DeviceGrowth\n"
    script += "growth = DeviceGrowth()\ngrowth.sample()\nprint(growth.peak_bytes)"
    assert printed(script, library) == "None"


def test_measured_bytes_are_those_of_the_device_that_holds_the_model():
    assert MemoryUse(5, 7).measured_bytes == 7
    assert MemoryUse(5, 7, 11).measured_bytes == 11
    assert MemoryUse(5, 7, None).measured_bytes is None
