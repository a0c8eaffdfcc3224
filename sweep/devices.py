"""The device that measurements run on: the first GPU that this build of llama.cpp can use, otherwise the CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from converters.llamacpp.devices import gpus

ALL_LAYERS = 999  # more layers than any model has: puts the whole model on the GPU
_VISIBLE = {"CUDA": "CUDA_VISIBLE_DEVICES", "ROCm": "HIP_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class Placement:
    """The device that runs a model: its name in records, and the number of layers on a GPU (0 for the CPU)."""

    device: str
    gpu_layers: int


def placement() -> Placement:
    """The device that measurements use on this machine."""
    found = gpus()
    return Placement(found[0].name, ALL_LAYERS) if found else Placement("cpu", 0)


def gpu_environments() -> list[dict[str, str]]:
    """For each GPU that this process can use: the environment variables that make it the only GPU of a child process.

    GPUs of a kind that is not selected by an environment variable are left out.
    """
    found = []
    for index, gpu in enumerate(gpus()):
        variable = _VISIBLE.get(gpu.name.rstrip("0123456789"))
        if variable is not None:
            listed = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
            found.append({variable: listed[index] if index < len(listed) else str(index)})
    return found


@dataclass(frozen=True)
class MachineMemory:
    """Bytes: free memory of the device that `placement` names (0 if that is the CPU), and RAM of the whole machine."""

    device_bytes: int
    machine_bytes: int


def memory() -> MachineMemory:
    """Memory of this machine. The limit of a control group (a container) counts as its RAM if it is lower."""
    found = gpus()
    machine = psutil.virtual_memory().total
    limit = _control_group("memory.max")
    return MachineMemory(found[0].free_bytes if found else 0, machine if limit is None else min(machine, limit))


def free_ram() -> int:
    """Bytes of RAM that a process can allocate now, within the limit of its control group."""
    free = psutil.virtual_memory().available
    limit, used = _control_group("memory.max"), _control_group("memory.current")
    return free if limit is None or used is None else min(free, max(0, limit - used))


def _control_group(name: str) -> int | None:
    """Bytes that a file of the control group (version 2) says; None if there is no such file or no limit."""
    file = Path("/sys/fs/cgroup") / name
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


def threads() -> int:
    """Number of physical cores that this process may use: hyper-threads do not speed up matrix products."""
    try:
        allowed = len(psutil.Process().cpu_affinity())
    except AttributeError:  # psutil has no CPU affinity on macOS
        allowed = psutil.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def torch_device() -> str:
    """The device that variants of torch run on: "cuda" or "cpu"."""
    import torch  # takes seconds to load; sweeps without torch should not wait for it

    return "cuda" if torch.cuda.is_available() else "cpu"
