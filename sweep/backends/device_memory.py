"""How much memory of NVIDIA GPUs a model takes in this process: what grew since before it was loaded, at its peak.

The driver's own account by process (NVML, nvmlDeviceGetComputeRunningProcesses), all devices together: weights, caches,
buffers and the CUDA context, whichever library allocated them. Some drivers and most containers do not tell it by
process, and then nothing is said: a device's whole memory is not this process's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


class DeviceGrowth:
    """Made before the model is loaded; `sample` while it holds the most."""

    def __init__(self) -> None:
        self._devices = _devices()
        self._before = _own_bytes(self._devices) or 0  # none is listed that holds nothing yet
        self._peak: int | None = None

    def sample(self) -> None:
        now = _own_bytes(self._devices)
        if now is not None:
            self._peak = max(self._peak or 0, now)

    @property
    def peak_bytes(self) -> int | None:
        """The most that any sample was above the time before; None where the driver never told."""
        return None if self._peak is None else max(0, self._peak - self._before)


def _devices() -> list[Any]:
    """NVML's handles; none where there is no NVML library or driver. They last as long as the process."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _own_bytes(devices: Iterable[Any]) -> int | None:
    """Bytes of this process on all `devices`; None where no device lists it (another PID namespace, or nothing held) or
    the driver has no figure for it (Windows' WDDM).
    """
    import pynvml

    try:
        listed = [entry for device in devices for entry in pynvml.nvmlDeviceGetComputeRunningProcesses(device)]
    except pynvml.NVMLError:
        return None
    own = [entry.usedGpuMemory for entry in listed if entry.pid == os.getpid()]
    return None if not own or None in own else sum(own)
