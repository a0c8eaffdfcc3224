"""The devices of this machine, with their free memory.

llama.cpp lists the devices of every backend that it was built with. If it was built for the CPU alone, NVIDIA's
management library (NVML) lists GPUs that another build could use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from converters.llamacpp.devices import gpus as built_gpus
from presets.gpus import gpu_of_device
from sweep import devices
from sweep.fit.hardware import Device, reserve_bytes

# Prefixes of llama.cpp's device names -> kinds
_KINDS = {"CUDA": "cuda", "ROCm": "rocm", "MUSA": "cuda", "MTL": "metal", "Metal": "metal", "SYCL": "sycl"}


def local_devices() -> list[Device]:
    """The GPUs of this machine, and its RAM."""
    return [*local_gpus(), local_ram()]


def local_gpus() -> list[Device]:
    """The GPUs that this build of llama.cpp can use, in its order; if there are none, those of NVIDIA's driver."""
    return _usable_gpus() or nvidia_gpus()


def local_ram() -> Device:
    """This machine's RAM, with the bytes that a process can allocate now."""
    free = devices.free_ram()
    return Device("CPU", "cpu", devices.memory().machine_bytes, free, None, False, reserve_bytes("cpu"))


def _usable_gpus() -> list[Device]:
    return [
        _described(device.description, _kind(device.name), device.total_bytes, device.free_bytes)
        for device in built_gpus()
        if not device.name.startswith("RPC")  # on another machine, or simulated
    ]


def _kind(name: str) -> str:
    """The kind of a device by llama.cpp's name of it; an unknown name is treated as Vulkan."""
    return next((kind for start, kind in _KINDS.items() if name.startswith(start)), "vulkan")


def nvidia_gpus() -> list[Device]:
    """The GPUs that NVIDIA's driver lists; none if there is no driver or no GPU."""
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
            except nvml.NVMLError:  # NVML has no figure for unified memory
                continue
            found.append(_described(name, "cuda", int(memory.total), int(memory.free)))
    finally:
        nvml.nvmlShutdown()
    return found


def _described(description: str, kind: str, total: int, free: int) -> Device:
    """A real GPU; if presets/gpus.toml knows it, with its common name and its bandwidth."""
    gpu = gpu_of_device(description, total)
    name, bandwidth = (description, None) if gpu is None else (gpu.name, gpu.bandwidth)
    return Device(name, kind, total, free, bandwidth, False, reserve_bytes(kind))
