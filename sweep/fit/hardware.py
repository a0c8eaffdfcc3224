"""Devices that a model could be placed on: their memory, their reserve, and the devices that --gpu names.

A simulated device is a GPU of presets/gpus.toml, or a size. A driver needs memory for its context, its kernels and the
workspaces of its libraries in each process that uses the device. llama.cpp does not count this memory, and it is still
free before the process starts. Therefore a reserve is left free on each device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from converters.errors import InputError
from presets.gpus import Gpu, find_gpus, similar_gpu_names
from sweep.defaults import MARGIN_BYTES
from sweep.format import size

MIB = 1 << 20
ANY_RAM = "any RAM"
"""As much RAM as is needed, where --gpu names devices."""
MAX_GPUS = 15  # llama.cpp's limit of 16 devices (GGML_SCHED_MAX_BACKENDS) includes RAM
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([a-z]+?)(\s+RAM)?", re.I)
# Memory is made and sold in powers of 1024, whatever it says: an "RTX 4090 24GB" has 24 GiB. Bandwidths are stated in
# powers of 1000, as makers do.
_MEMORY_UNITS = {unit + suffix: 1024**power for power, unit in enumerate("mgt", 2) for suffix in ("", "b", "ib")}
_RATE_UNITS = {
    unit + suffix: base**power
    for power, unit in enumerate("mgt", 2)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


@dataclass(frozen=True)
class Device:
    """A device, with sizes in bytes. `usable_bytes` is the free memory, or the usable memory of a simulated GPU."""

    name: str  # "RTX 4090", "CPU", "24GiB"
    kind: str  # "cuda" | "rocm" | "metal" | "sycl" | "vulkan" | "cpu"
    total_bytes: int
    usable_bytes: int
    bandwidth: float | None  # bytes per second
    simulated: bool
    reserve_bytes: int  # left free: an allowance for the driver's context, and a margin


@dataclass(frozen=True)
class DriverContext:
    """The memory that a driver needs for one process, and the source of this figure."""

    bytes: int
    source: str


_ALLOWANCE = "an allowance that was not measured; logs of CUDA and HIP processes show 300 to 470 MiB"

DRIVER_CONTEXTS = {
    "cuda": DriverContext(512 * MIB, _ALLOWANCE),
    "rocm": DriverContext(512 * MIB, _ALLOWANCE),
    "sycl": DriverContext(512 * MIB, _ALLOWANCE),
    "vulkan": DriverContext(256 * MIB, "an allowance that was not measured"),
    "metal": DriverContext(0, "Metal's recommended working set does not include it"),
    "cpu": DriverContext(0, "there is no driver"),
}
"""By kind of device."""


def reserve_bytes(kind: str) -> int:
    """The reserve of a device of this kind."""
    return DRIVER_CONTEXTS[kind].bytes + MARGIN_BYTES


def _is_given(device: Device) -> bool:
    """Whether its reserve is not that of its kind."""
    return device.kind not in DRIVER_CONTEXTS or device.reserve_bytes != reserve_bytes(device.kind)


def explain_reserve(device: Device) -> str:
    """The parts of the reserve of a device, as text."""
    if _is_given(device):
        return f"{size(device.reserve_bytes)}, as given by --reserve"
    context = DRIVER_CONTEXTS[device.kind]
    driver = f"{size(context.bytes)} for the driver's context ({context.source}), and " if context.bytes else ""
    return f"{driver}a margin of {size(MARGIN_BYTES)}, as in llama.cpp's own fit"


def parse_devices(texts: Iterable[str]) -> list[Device]:
    """The devices that --gpu names: "RTX 4090", "2xRTX 6000 Ada", "24GiB", "64GiB RAM", or several with commas.

    ANY_RAM is no device: without RAM among the devices, there is as much as is needed. Raises InputError for an unknown
    GPU (with the nearest names), for an ambiguous name (with all names that it could mean), for a size without a unit,
    for ANY_RAM alone, and for more than MAX_GPUS GPUs.
    """
    texts = list(texts)
    found = [device for text in texts for part in text.split(",") for device in _devices(part.strip())]
    count = sum(device.kind != "cpu" for device in found)
    if count > MAX_GPUS:
        raise InputError(f"--gpu: {count} GPUs; llama.cpp can divide a model among at most {MAX_GPUS}")
    if texts and not found:
        raise InputError(f"--gpu {', '.join(texts)!r} names no GPU")
    return found


def allows_ram(texts: Iterable[str]) -> bool:
    """Whether --gpu names RAM next to GPUs: a model may be partly in it."""
    parts = [part.strip().lower() for text in texts for part in text.split(",")]
    return any(part.endswith("ram") for part in parts) and not all(part.endswith("ram") for part in parts)


def with_ram(devices: Sequence[Device], size: str | None, bandwidth: str | None) -> list[Device]:
    """The devices with this RAM in place of the RAM among them, or beside them.

    `size` is the memory that a program can use, such as "64GiB"; `bandwidth` such as "60GB/s". Raises InputError if
    one of them is not understood, or if there is no RAM for the bandwidth.
    """
    if size is not None:
        count = _memory_bytes(_SIZE.fullmatch(size.strip()))
        if count is None:
            raise InputError(f"--ram {size!r} is not a size; write for example 64GiB")
        ram = _sized_device(f"{size.strip()} RAM", count, "cpu")
        devices = [*(device for device in devices if device.kind != "cpu"), ram]
    if bandwidth is None:
        return list(devices)
    rate = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*([a-z]+)/s", bandwidth.strip(), re.I)
    if rate is None or rate[2].lower() not in _RATE_UNITS or not float(rate[1]):
        raise InputError(f"--ram-bandwidth {bandwidth!r} is not a bandwidth; write for example 60GB/s")
    if not any(device.kind == "cpu" for device in devices):
        raise InputError("--ram-bandwidth needs the size of the RAM: add for example --ram 64GiB")
    per_second = float(rate[1]) * _RATE_UNITS[rate[2].lower()]
    return [replace(one, bandwidth=per_second) if one.kind == "cpu" else one for one in devices]


def with_reserve(devices: Sequence[Device], text: str | None) -> list[Device]:
    """The devices with this memory left free on each GPU, such as "2GiB"; without a GPU, in RAM. Raises InputError."""
    if text is None:
        return list(devices)
    count = _memory_bytes(_SIZE.fullmatch(text.strip()))
    if count is None:
        raise InputError(f"--reserve {text!r} is not a size; write for example 2GiB, or 0GiB for none")
    has_gpu = any(device.kind != "cpu" for device in devices)
    return [replace(one, reserve_bytes=count) if one.kind != "cpu" or not has_gpu else one for one in devices]


def reserve_formula(devices: Sequence[Device]) -> str:
    """What is left free on these devices, as the formula of a figure."""
    if any(map(_is_given, devices)):
        return "left free on each device, as given by --reserve"
    return "left free on each device: an allowance for the driver's context, and a margin"


def _devices(text: str) -> list[Device]:
    if text.lower() == ANY_RAM.lower():
        return []
    counted = re.fullmatch(r"(\d{1,3})\s*[x*]\s*(\S.*)", text, re.I)
    count, name = (int(counted[1]), counted[2]) if counted else (1, text)
    if count < 1:
        raise InputError(f"--gpu {text!r}: the number of devices must be at least one")
    size = _SIZE.fullmatch(name)
    memory = _memory_bytes(size)
    if size is not None and memory is not None:
        return [_sized_device(name, memory, "cpu" if size[3] else "cuda")] * count
    if re.fullmatch(r"\d{1,3}|\d+\.\d*", name):
        raise InputError(
            f"--gpu {text!r} is a size without a unit; write {name}GiB, or the name of a GPU (see `sweep gpus`)"
        )
    gpu = _gpu(text, name)
    return [_gpu_device(gpu)] * (count * gpu.devices)


def parse_size(option: str, text: str) -> int:
    """The bytes of a memory size such as "24GiB"; "24GB" means the same. Raises InputError, which names the option."""
    count = _memory_bytes(_SIZE.fullmatch(text.strip()))
    if not count:
        raise InputError(f"{option} {text!r} is not a size; write for example 24GiB")
    return count


def _memory_bytes(size: re.Match[str] | None) -> int | None:
    """The bytes of a match of _SIZE; None without a match, or with an unknown unit."""
    if size is None or size[2].lower() not in _MEMORY_UNITS:
        return None
    return int(float(size[1]) * _MEMORY_UNITS[size[2].lower()])


def _gpu(text: str, name: str) -> Gpu:
    found = find_gpus(name)
    if len(found) > 1:
        raise InputError(f"--gpu {text!r} can be {_listed([gpu.name for gpu in found])}; give the whole name")
    if not found:
        near = similar_gpu_names(name)
        hint = f"did you mean {_listed(near)}?" if near else "`sweep gpus` lists the known GPUs."
        raise InputError(f"--gpu {text!r}: no such GPU is known; {hint} You can also give a size, such as 24GiB")
    return found[0]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _gpu_device(gpu: Gpu) -> Device:
    return Device(
        name=gpu.name,
        kind=gpu.kind,
        total_bytes=gpu.memory_bytes,
        usable_bytes=gpu.usable_bytes,
        bandwidth=gpu.bandwidth,
        simulated=True,
        reserve_bytes=reserve_bytes(gpu.kind),
    )


def _sized_device(name: str, count: int, kind: str) -> Device:
    """A device of which a program can use all `count` bytes: RAM, or a GPU, treated as a CUDA device."""
    if count < 1:
        raise InputError(f"--gpu {name!r}: the size of a device must be positive")
    return Device(" ".join(name.split()), kind, count, count, None, True, reserve_bytes(kind))
