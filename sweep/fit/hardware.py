"""Devices that a model could be placed on: what each has, what of it stays free, and those that --gpu names.

What is simulated comes from presets/gpus.toml by a card's name, or from a size. A driver takes memory for its context,
its kernels and its libraries' workspaces in each process that uses the device. llama.cpp counts none of that, and what
is free before a process starts does not leave it out: so a part of a device stays free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from converters.errors import InputError
from presets.gpus import Gpu, find_gpus, similar_gpu_names
from sweep.defaults import MARGIN_BYTES
from sweep.format import size

MIB = 1 << 20
MOST = 16  # llama.cpp has room for no more devices
_UNITS = {
    unit + suffix: base**power
    for power, unit in enumerate("mgt", 2)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


@dataclass(frozen=True)
class Device:
    """Sizes in bytes. `usable_bytes` is what is free now, or what of a simulated card can be had."""

    name: str  # "RTX 4090", "CPU", "24GiB"
    kind: str  # "cuda" | "rocm" | "metal" | "sycl" | "vulkan" | "cpu"
    total_bytes: int
    usable_bytes: int
    bandwidth: float | None  # bytes a second
    simulated: bool
    reserve_bytes: int  # the driver's own context and what a safe verdict keeps free


@dataclass(frozen=True)
class DriverContext:
    """What a driver takes for one process, and who says so."""

    bytes: int
    source: str


_ALLOWANCE = "an allowance, not measured: 300 to 470 MiB are seen in logs of CUDA and HIP processes"

CONTEXTS = {
    "cuda": DriverContext(512 * MIB, _ALLOWANCE),
    "rocm": DriverContext(512 * MIB, _ALLOWANCE),
    "sycl": DriverContext(512 * MIB, _ALLOWANCE),
    "vulkan": DriverContext(256 * MIB, "an allowance, not measured"),
    "metal": DriverContext(0, "what Metal recommends leaves it out already"),
    "cpu": DriverContext(0, "there is no driver"),
}
"""By kind of device."""


def reserve_bytes(kind: str) -> int:
    """What stays free of a device of this kind."""
    return CONTEXTS[kind].bytes + MARGIN_BYTES


def told(kind: str) -> str:
    """For people: what stays free of a device of this kind, and why."""
    context = CONTEXTS[kind]
    driver = f"{size(context.bytes)} for its driver's context ({context.source}) and " if context.bytes else ""
    return f"{driver}{size(MARGIN_BYTES)} of margin, llama.cpp's own of a device"


def devices_called(texts: Iterable[str]) -> list[Device]:
    """The devices that --gpu names: "RTX 4090", "2xRTX 6000 Ada", "24GiB", "64GiB RAM"; several by comma too.

    Raises InputError: for an unknown card with the nearest names, for one that can mean several with all of them, and
    for a size without a unit.
    """
    found = [device for text in texts for part in text.split(",") for device in _devices(part.strip())]
    if len(found) > MOST:
        raise InputError(f"--gpu: {len(found)} devices; llama.cpp has room for {MOST}")
    return found


def _devices(text: str) -> list[Device]:
    counted = re.fullmatch(r"(\d{1,3})\s*[x*]\s*(\S.*)", text, re.I)
    count, name = (int(counted[1]), counted[2]) if counted else (1, text)
    if count < 1:
        raise InputError(f"--gpu {text!r}: there must be at least one")
    size = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*([a-z]+?)(\s+RAM)?", name, re.I)
    if size and size[2].lower() in _UNITS:
        return [_of_size(name, int(float(size[1]) * _UNITS[size[2].lower()]), "cpu" if size[3] else "cuda")] * count
    if re.fullmatch(r"\d{1,3}|\d+\.\d*", name):
        raise InputError(
            f"--gpu {text!r} is a size without a unit; write {name}GiB, or a card's name (see `sweep gpus`)"
        )
    return [_of_card(_card(text, name))] * (count * _card(text, name).devices)


def _card(text: str, name: str) -> Gpu:
    found = find_gpus(name)
    if len(found) > 1:
        raise InputError(f"--gpu {text!r} can be {_listed([gpu.name for gpu in found])}; say which")
    if not found:
        near = similar_gpu_names(name)
        hint = f"did you mean {_listed(near)}?" if near else "`sweep gpus` lists those that are."
        raise InputError(f"--gpu {text!r}: no such GPU is known; {hint} A size will do too: 24GiB")
    return found[0]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _of_card(gpu: Gpu) -> Device:
    return Device(
        name=gpu.name,
        kind=gpu.kind,
        total_bytes=gpu.memory_bytes,
        usable_bytes=gpu.usable_bytes,
        bandwidth=gpu.bandwidth,
        simulated=True,
        reserve_bytes=reserve_bytes(gpu.kind),
    )


def _of_size(name: str, count: int, kind: str) -> Device:
    """So many bytes, all of which a program can have: of a GPU of unknown make, reckoned as CUDA's, or of RAM."""
    if count < 1:
        raise InputError(f"--gpu {name!r}: a device has some memory")
    return Device(" ".join(name.split()), kind, count, count, None, True, reserve_bytes(kind))
