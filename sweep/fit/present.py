"""The devices of this machine, with what of their memory is free now.

llama.cpp's own list of devices knows every backend that it was built with. Where that is the CPU alone, NVIDIA's
management library tells of cards that another build could use; what else there is, is RAM.
"""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from converters.llamacpp.devices import gpus as built_gpus
from presets.gpus import gpu_of_device
from sweep import devices
from sweep.fit.hardware import Device, reserve_bytes

# Beginnings of llama.cpp's device names -> kinds
_KINDS = {"CUDA": "cuda", "ROCm": "rocm", "MUSA": "cuda", "MTL": "metal", "Metal": "metal", "SYCL": "sycl"}


def present() -> list[Device]:
    """The GPUs of this machine, and its RAM."""
    return [*gpus(), ram()]


def gpus() -> list[Device]:
    """Those that this build of llama.cpp can use, in its order; where there is none, NVIDIA's that the driver shows."""
    return _built() or nvidia()


def ram() -> Device:
    """What of this machine's RAM a process can have now."""
    free = devices.free_ram()
    return Device("CPU", "cpu", devices.memory().machine_bytes, free, None, False, reserve_bytes("cpu"))


def _built() -> list[Device]:
    return [
        _described(device.description, _kind(device.name), device.total_bytes, device.free_bytes)
        for device in built_gpus()
        if not device.name.startswith("RPC")  # another machine's, or none at all
    ]


def _kind(name: str) -> str:
    """Of llama.cpp's name of a device; what computes through Vulkan or anything else is taken for Vulkan's."""
    return next((kind for start, kind in _KINDS.items() if name.startswith(start)), "vulkan")


def nvidia() -> list[Device]:
    """NVIDIA's cards as its driver tells; none where there is neither driver nor card."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    found = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            except nvml.NVMLError:  # of unified memory it tells nothing
                continue
            found.append(_described(name, "cuda", int(memory.total), int(memory.free)))
    finally:
        nvml.nvmlShutdown()
    return found


def unused() -> list[str]:
    """What tells of GPUs that this build of llama.cpp cannot compute on, each in words."""
    if built_gpus():
        return []
    found = [f"{device.name} is here" for device in nvidia()]
    if not found and shutil.which("nvidia-smi"):
        found.append("an NVIDIA driver is here")
    if Path("/dev/kfd").exists():
        found.append("an AMD GPU with its ROCm driver is here")
    return found


def _described(description: str, kind: str, total: int, free: int) -> Device:
    """By the card's own name where it is known, which gives its bandwidth too."""
    card = gpu_of_device(description, total)
    name, bandwidth = (description, None) if card is None else (card.name, card.bandwidth)
    return Device(name, kind, total, free, bandwidth, False, reserve_bytes(kind))
