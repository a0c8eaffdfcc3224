"""What of a device stays free, so that what is said to fit does: the driver's own context, and a margin.

A driver takes memory for its context, its kernels and its libraries' workspaces in each process that uses the device.
llama.cpp counts none of that, and what is free before a process starts does not leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweep.format import size

MIB = 1 << 20

MARGIN_BYTES = 1024 * MIB
"""What llama.cpp's own fit leaves free on each device (its --fit-target): buffers of other builds differ by some per
cent, and pools of the backends grow while they run."""


@dataclass(frozen=True)
class Context:
    """What a driver takes for one process, and who says so."""

    bytes: int
    source: str


_ALLOWANCE = "an allowance, not measured: 300 to 470 MiB are seen in logs of CUDA and HIP processes"

CONTEXTS = {
    "cuda": Context(512 * MIB, _ALLOWANCE),
    "rocm": Context(512 * MIB, _ALLOWANCE),
    "sycl": Context(512 * MIB, _ALLOWANCE),
    "vulkan": Context(256 * MIB, "an allowance, not measured"),
    "metal": Context(0, "what Metal recommends leaves it out already"),
    "cpu": Context(0, "there is no driver"),
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
