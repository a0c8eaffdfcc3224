"""Places a GGUF variant on a machine with a given context, and finds the longest context with which it fits."""

from __future__ import annotations

from collections.abc import Callable

from sweep.fit.formulas import CELLS, padded
from sweep.fit.placement import FitMachine, LayerPlacement, place_layers, place_whole_layers
from sweep.fit.variant_memory import MemoryParts, VariantMemory, bytes_per_device

MAX_CHECKS = 8  # how many contexts llama.cpp computes at most to find the largest one that fits


def place_variant(memory: VariantMemory, machine: FitMachine, context: int, offload: bool) -> LayerPlacement:
    """The placement with `context` tokens per sequence; with `offload`, partly in RAM if it does not fit."""
    total = memory.shape.layers + 1
    if not machine.gpus:
        return machine.everything(total)
    free = [gpu.usable_bytes for gpu in machine.gpus]

    def used(placement: LayerPlacement) -> list[int]:
        return bytes_per_device(memory.parts(placement, context), machine.shared)

    if not offload:
        return place_whole_layers(total, free, machine.targets, used)
    return place_layers(total, free, machine.targets, memory.shape.experts > 0, used)


def holds(parts: MemoryParts, machine: FitMachine) -> bool:
    """Whether every device and the host have room for their parts and their reserve."""
    used = bytes_per_device(parts, machine.shared)
    devices = all(one <= target for one, target in zip(used, machine.targets, strict=True))
    return devices and (machine.ram_target is None or int(parts.total[-1]) <= machine.ram_target)


def longest_context(memory: VariantMemory, machine: FitMachine, offload: bool, fits_requested: bool) -> int | None:
    """The largest context per sequence with which the variant fits, in llama.cpp's steps; None if no context fits.

    Without `offload`, everything is on the devices, and only whole layers are placed. With `offload`, each context has
    the placement that it would get if it were requested: the longer it is, the more layers or experts are in RAM.
    `fits_requested` says whether the requested context fits; if it fits only with a layer that is divided between two
    devices, the requested context is the result.

    The search uses interpolated compute buffers. llama.cpp then computes the context that was found, and the search
    continues below it, or above it if it fits, with buffers that are closer to the real ones.
    """

    def placed(steps: int) -> LayerPlacement:
        return place_variant(memory, machine, steps * CELLS, offload)

    def fits(steps: int) -> bool:
        placement = placed(steps)
        whole = placement.is_full or not machine.gpus
        return (whole or offload) and holds(memory.parts(placement, steps * CELLS), machine)

    if _is_too_large(memory, machine, offload):
        return None
    longest = memory.shape.train_context // CELLS
    requested = min(padded(memory.contexts.options.context) // CELLS, longest)
    low, high = (requested, longest + 1) if fits_requested or fits(requested) else (0, requested)
    for _ in range(MAX_CHECKS):
        found = low if high <= low + 1 else _last(low, high, fits)
        if found == low or memory.is_exact(placed(found), found * CELLS):
            return found * CELLS or None
        memory.compute_exactly(placed(found), found * CELLS)
        low, high = (found, high) if fits(found) else (low, found)
    return low * CELLS or None


def _is_too_large(memory: VariantMemory, machine: FitMachine, offload: bool) -> bool:
    """Whether the weights alone are larger than the memory in which they may be."""
    room = sum(machine.targets) if machine.gpus else 0
    if offload or not machine.gpus:
        if machine.ram_target is None:
            return False
        room += machine.ram_target
    return int(memory.weights.layers.sum()) > room > 0


def _last(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, by bisection between `low`, which fits, and `high`, which does not fit."""
    if fits(high - 1):
        return high - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
