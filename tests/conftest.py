"""What holds for every test, set before torch and triton are first imported.

Triton's kernels run in its interpreter, on CPU tensors. On a machine with an NVIDIA GPU, TRITON_INTERPRET=0 in the
environment runs them there.

A shell starts what it runs in the background deaf to Ctrl-C, and so would be every `sweep` a test interrupts.
"""

import os
import signal
from pathlib import Path

import cores
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")
cores.take_share()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """From the outside in: tests of the screen wait much of their time, those of commands take long, and at the end
    small ones keep every core at work."""
    here = Path(__file__).parent
    order = {here / "tui": 0, here / "sweep": 1}
    items.sort(key=lambda item: order.get(item.path.parent, 2))
