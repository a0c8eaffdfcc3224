"""A device that a model could be placed on, present or simulated."""

from dataclasses import dataclass


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
