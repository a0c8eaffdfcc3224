"""Where the engine computes: the first GPU that this build of llama.cpp can use, else the CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from converters.llamacpp.devices import gpus

ALL_LAYERS = 999  # more than any model has: all of it on the GPU
_VISIBLE = {"CUDA": "CUDA_VISIBLE_DEVICES", "ROCm": "HIP_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class Placement:
    """What runs a model: the device's name for records, and how many layers go to a GPU."""

    device: str
    gpu_layers: int


def placement() -> Placement:
    """The device of measurements on this machine."""
    found = gpus()
    return Placement(found[0].name, ALL_LAYERS) if found else Placement("cpu", 0)


def visible_gpus() -> list[dict[str, str]]:
    """What the environment of a process says that is to see one of the GPUs alone, for each of those that this process
    sees; none of a kind that the environment does not choose."""
    found = []
    for index, gpu in enumerate(gpus()):
        variable = _VISIBLE.get(gpu.name.rstrip("0123456789"))
        if variable is not None:
            listed = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
            found.append({variable: listed[index] if index < len(listed) else str(index)})
    return found


@dataclass(frozen=True)
class MachineMemory:
    """Bytes: free on the device that `placement` names (0 where that is the CPU), and of the whole machine."""

    device_bytes: int
    machine_bytes: int


def memory() -> MachineMemory:
    """Of this machine; a control group's bound counts as its end."""
    found = gpus()
    machine = psutil.virtual_memory().total
    bound = _control_group("memory.max")
    return MachineMemory(found[0].free_bytes if found else 0, machine if bound is None else min(machine, bound))


def free_ram() -> int:
    """Bytes of RAM that a process can have now; a control group's bound counts."""
    free = psutil.virtual_memory().available
    bound, used = _control_group("memory.max"), _control_group("memory.current")
    return free if bound is None or used is None else min(free, max(0, bound - used))


def _control_group(name: str) -> int | None:
    file = Path("/sys/fs/cgroup") / name
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


def threads() -> int:
    """Physical cores that this process may use: hyper-threads do not help matrix products."""
    try:
        allowed = len(psutil.Process().cpu_affinity())
    except AttributeError:  # macOS has no affinity
        allowed = psutil.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def torch_device() -> str:
    """Where variants of torch run."""
    import torch  # takes seconds to load, which other sweeps should not wait for

    return "cuda" if torch.cuda.is_available() else "cpu"
