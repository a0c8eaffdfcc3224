"""Settings for every test. They must be made before torch and triton are first imported.

Triton's kernels run in its interpreter, on CPU tensors. On a machine with an NVIDIA GPU, TRITON_INTERPRET=0 in the
environment runs them on the GPU.

Every test shares the cores with other tests, so speeds are unstable. Sweeps do not measure them again, except in tests
of that.

A shell makes its background processes ignore Ctrl-C (SIGINT), and child processes inherit that. Tests interrupt `sweep`
with SIGINT, so the default handler is restored.
"""

import os
import signal
from pathlib import Path

import cores
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("BITSWEEP_EXTENSIONS", str(Path(__file__).parent / "quick_speed.py"))
cores.take_share()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests of the screen first, because they mostly wait, then tests of commands, because they take long. Small
    tests at the end keep every core busy."""
    here = Path(__file__).parent
    order = {here / "tui": 0, here / "sweep": 1}
    items.sort(key=lambda item: order.get(item.path.parent, 2))
