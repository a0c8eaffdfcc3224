"""Measures the GPU memory of a model in this process on NVIDIA GPUs: its growth since before loading, at the peak.

The figures are the driver's per process (NVML, nvmlDeviceGetComputeRunningProcesses), over all devices: weights,
caches, buffers and the CUDA context, no matter which library allocated them. Some drivers and most containers have no
figures per process. Then the result is unknown, because the memory in use on a device may belong to other processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


class DeviceGrowth:
    """Create it before loading the model, and call `sample` when the memory in use is highest."""

    def __init__(self) -> None:
        self._devices = _devices()
        self._before = _own_bytes(self._devices) or 0  # a process without GPU memory is not listed
        self._peak: int | None = None

    def sample(self) -> None:
        now = _own_bytes(self._devices)
        if now is not None:
            self._peak = max(self._peak or 0, now)

    @property
    def peak_bytes(self) -> int | None:
        """The largest growth of all samples, in bytes; None if the driver never had a figure."""
        return None if self._peak is None else max(0, self._peak - self._before)


def _devices() -> list[Any]:
    """NVML's device handles; none without the NVML library or a driver. They are valid until the process ends."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _own_bytes(devices: Iterable[Any]) -> int | None:
    """Bytes of this process on all `devices`.

    None if no device lists the process (another PID namespace, or no memory in use), or if the driver has no figure for
    it (Windows with WDDM).
    """
    import pynvml

    try:
        listed = [entry for device in devices for entry in pynvml.nvmlDeviceGetComputeRunningProcesses(device)]
    except pynvml.NVMLError:
        return None
    own = [entry.usedGpuMemory for entry in listed if entry.pid == os.getpid()]
    return None if not own or None in own else sum(own)
