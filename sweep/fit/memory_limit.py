"""How much memory a model may take: a size, or what devices hold beside the reserve that `sweep fit` leaves free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.fit.hardware import Device, parse_size
from sweep.format import size


@dataclass(frozen=True)
class MemoryLimit:
    """Bytes, and what they are in words: "24.0 GiB", "RTX 4090 (22.1 GiB)"."""

    limit_bytes: int
    words: str


def memory_of_size(text: str) -> MemoryLimit:
    """The limit that --memory names: `24GiB` are exactly that, and 24GB means the same. Raises InputError."""
    count = parse_size("--memory", text)
    return MemoryLimit(count, size(count))


def memory_of_devices(devices: Sequence[Device]) -> MemoryLimit:
    """What the GPUs can hold together; without a GPU, the RAM."""
    used = [device for device in devices if device.kind != "cpu"] or devices
    free = max(0, sum(device.usable_bytes - device.reserve_bytes for device in used))
    names = ("the free RAM of this machine" if one.name == "CPU" else one.name for one in used)
    return MemoryLimit(free, f"{' and '.join(dict.fromkeys(names))} ({size(free)})")
