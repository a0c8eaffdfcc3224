"""Decides which layers go to which device, and whose experts stay in RAM, as llama.cpp's own fit does.

Source: llama.cpp, common/fit.cpp. Its steps, in this order, until the model fits:

1. All layers, divided by the free memory of the devices.
2. Whole layers, filling the devices from the last one to the first; layers of a mixture of experts without experts.
3. The experts of these layers, from the first device to the last, and at the end a part of one more layer.

llama.cpp tries each step by a load. This module adds up the known sizes of layers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import psutil

from sweep.fit.fit_report import HOST
from sweep.fit.hardware import Device
from sweep.fit.layer_bytes import LayerPart

UsedMemory = Callable[["LayerPlacement"], Sequence[int]]
"""Gives the bytes that a placement uses on each device."""


COPYING_KINDS = ("cuda", "rocm", "metal", "sycl", "vulkan")
"""Kinds of devices whose llama.cpp backends copy weights from RAM to compute long batches ("offload_op"); the RPC
backend does not."""


@dataclass(frozen=True)
class LayerPlacement:
    """The placement of a model's layers on devices and in RAM.

    Attributes:
        total: number of layers, including the output.
        layers: number of layers on each device. They are the last layers of the model, in the order of the devices; the
            layers before them are in RAM.
        partial: number of layers of each device, the last ones, that are split: their experts are in RAM.
        first_part: for each device, the part of its first split layer that is elsewhere. If it is another part than the
            experts, it is on the next device, or in RAM if there is none.
    """

    total: int
    layers: tuple[int, ...]
    partial: tuple[int, ...]
    first_part: tuple[LayerPart, ...]

    @classmethod
    def whole(cls, total: int, layers: Sequence[int]) -> LayerPlacement:
        """Whole layers: no layer is split."""
        return cls(total, tuple(layers), (0,) * len(layers), (LayerPart.EXPERTS,) * len(layers))

    @property
    def on_devices(self) -> int:
        return sum(self.layers)

    @property
    def in_ram(self) -> int:
        """Number of layers that are entirely in RAM; they are the first layers of the model."""
        return self.total - self.on_devices

    @property
    def is_full(self) -> bool:
        """Whether everything is on devices; layers may be split between two of them."""
        return not self.in_ram and all(device is not None for _, _, device in self.split_layers())

    def span(self, device: int) -> range:
        """The layers of a device."""
        start = self.in_ram + sum(self.layers[:device])
        return range(start, start + self.layers[device])

    def split_layers(self) -> list[tuple[int, LayerPart, int | None]]:
        """The split layers: number of the layer, the part that is elsewhere, and its device, or None for RAM."""
        result: list[tuple[int, LayerPart, int | None]] = []
        for device, count in enumerate(self.partial):
            for index, layer in enumerate(self.span(device)[self.layers[device] - count :]):
                if layer == self.total - 1:  # the output has no experts, but llama.cpp counts it as a split layer
                    continue
                part = self.first_part[device] if index == 0 else LayerPart.EXPERTS
                next_device = device + 1 if device + 1 < len(self.layers) and part is not LayerPart.EXPERTS else None
                result.append((layer, part, next_device))
        return result

    def tensor_overrides(self) -> tuple[tuple[str, int | None], ...]:
        """`split_layers` for `LoadOptions`: patterns of tensor names, each with its device, or None for RAM.

        Layers with the same part and device share a pattern.
        """
        groups: dict[tuple[LayerPart, int | None], list[str]] = {}
        for layer, part, device in self.split_layers():
            groups.setdefault((part, device), []).append(str(layer))
        return tuple(
            (rf"blk\.{layers[0] if len(layers) == 1 else '(' + '|'.join(layers) + ')'}\.{part.value}", device)
            for (part, device), layers in groups.items()
        )


def proportional(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Number of layers on each device if llama.cpp divides `total` layers by `shares` (it computes in float32)."""
    ends = np.cumsum(np.array(shares, np.float32), dtype=np.float32)
    if not any(shares):
        return (0,) * len(shares)
    ends /= ends[-1]
    positions = np.arange(total, dtype=np.float32) / np.float32(total)
    owners = np.searchsorted(ends, positions, side="right")
    return tuple(int((owners == device).sum()) for device in range(len(shares)))


@dataclass(frozen=True)
class FitMachine:
    """The GPUs that layers can be placed on, and the host; `host` is None if the size of its RAM is unknown."""

    gpus: tuple[Device, ...]
    host: Device | None

    @classmethod
    def of(cls, devices: Sequence[Device]) -> FitMachine:
        """From a list of devices; a device of the kind "cpu" is the host.

        Without one, the host of real GPUs is this machine, and that of simulated GPUs is unknown.
        """
        gpus = tuple(device for device in devices if device.kind != "cpu")
        host = next((device for device in devices if device.kind == "cpu"), None)
        if host is None and not any(device.simulated for device in gpus):
            memory = psutil.virtual_memory()
            host = Device(HOST, "cpu", memory.total, memory.available, None, False, 0)
        return cls(gpus, host)

    @property
    def copies_weights(self) -> bool:
        """Whether the first GPU copies weights from RAM to compute long batches."""
        return bool(self.gpus) and self.gpus[0].kind in COPYING_KINDS

    @property
    def targets(self) -> list[int]:
        """Bytes that a model may use of each GPU after its reserve; 0 if less than the reserve is free."""
        return [max(0, device.usable_bytes - device.reserve_bytes) for device in self.gpus]

    @property
    def ram_target(self) -> int | None:
        """Bytes that a model may use of RAM after its reserve; None if the size of RAM is unknown."""
        return None if self.host is None else max(0, self.host.usable_bytes - self.host.reserve_bytes)

    def everything(self, layers: int) -> LayerPlacement:
        """All layers on the GPUs, divided by their free memory, as llama.cpp does by default."""
        return LayerPlacement.whole(layers, proportional(layers, [gpu.usable_bytes for gpu in self.gpus]))

    @property
    def shared(self) -> list[bool]:
        """Whether each GPU's memory is the host's RAM, as with Apple's GPUs."""
        return [device.kind == "metal" for device in self.gpus]


def place_layers(
    total: int, free: Sequence[int], targets: Sequence[int], experts: bool, memory: UsedMemory
) -> LayerPlacement:
    """Place `total` layers on devices with `free` bytes, of which the model may use `targets`.

    `experts`: whether the model has experts, which can stay in RAM. Devices may stay empty.
    """
    everything = LayerPlacement.whole(total, proportional(total, free))
    if _within(memory(everything), targets):
        return everything
    filled = _filled(total, targets, experts, memory)
    if not experts:
        return filled
    spare = replace(everything, partial=_expert_layers(everything.layers))
    if sum(targets) <= sum(memory(spare)):
        return filled
    return _with_experts(filled, targets, memory)


def place_whole_layers(total: int, free: Sequence[int], targets: Sequence[int], memory: UsedMemory) -> LayerPlacement:
    """Place all layers on the devices, whole. If they do not fit, the result is the default placement of all layers."""
    everything = LayerPlacement.whole(total, proportional(total, free))
    if len(targets) < 2 or _within(memory(everything), targets):
        return everything
    filled = _filled(total, targets, False, memory)
    return filled if filled.is_full else everything


def _within(used: Sequence[int], targets: Sequence[int]) -> bool:
    return all(one <= target for one, target in zip(used, targets, strict=True))


def _expert_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """How many layers of each device can have their experts elsewhere: all except the output, on the last device."""
    last = len(layers) - 1
    return tuple(max(0, count - 1) if device == last else count for device, count in enumerate(layers))


def _filled(total: int, targets: Sequence[int], experts: bool, memory: UsedMemory) -> LayerPlacement:
    """As many layers as fit on each device, beginning with the last device; with `experts`, layers without experts."""
    placed = LayerPlacement.whole(total, (0,) * len(targets))
    for device in reversed(range(len(targets))):
        before = placed

        def with_layers(count: int, device: int = device, before: LayerPlacement = before) -> LayerPlacement:
            layers = tuple(count if index == device else own for index, own in enumerate(before.layers))
            return replace(before, layers=layers, partial=_expert_layers(layers) if experts else before.partial)

        placed = _largest(before.in_ram, with_layers, device, targets, memory)
    return placed


def _largest(
    high: int, place: Callable[[int], LayerPlacement], device: int, targets: Sequence[int], memory: UsedMemory
) -> LayerPlacement:
    """The placement `place(count)` for the largest count up to `high` that fits on the device; 0 always fits."""
    if high <= 0 or memory(place(high))[device] <= targets[device]:
        return place(max(high, 0))
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory(place(middle))[device] <= targets[device] else (low, middle)
    return place(low)


def _with_experts(placed: LayerPlacement, targets: Sequence[int], memory: UsedMemory) -> LayerPlacement:
    """Add experts to split layers, from the first device on, and then a part of one more layer on each device.

    The devices from `start` on have split layers without experts.
    """
    start = _first_partial(placed, 0)
    device = 0
    while start is not None and device <= start:
        whole = partial(_made_whole, placed, start, device)
        placed = _largest(sum(placed.partial[start:]), whole, device, targets, memory)
        start = _first_partial(placed, start)
        if start is not None:
            placed = _one_more(placed, start, device, targets, memory)
            start = _first_partial(placed, start)
        device += 1
    return placed


def _first_partial(placed: LayerPlacement, start: int) -> int | None:
    return next((index for index in range(start, len(placed.partial)) if placed.partial[index]), None)


def _made_whole(placed: LayerPlacement, start: int, device: int, count: int) -> LayerPlacement:
    """The next `count` layers without experts, moved to a device and with their experts."""
    layers, lacking = list(placed.layers), list(placed.partial)
    left = count
    for other in range(start, len(layers)):
        moved = min(left, lacking[other])
        layers[other] -= moved
        lacking[other] -= moved
        layers[device] += moved
        left -= moved
    return replace(placed, layers=tuple(layers), partial=tuple(lacking))


def _one_more(
    placed: LayerPlacement, start: int, device: int, targets: Sequence[int], memory: UsedMemory
) -> LayerPlacement:
    """One more layer on the device, split so that the part elsewhere is as small as possible."""
    layers, lacking = list(placed.layers), list(placed.partial)
    layers[start] -= 1
    lacking[start] -= 1
    layers[device] += 1
    lacking[device] += 1

    def attempt(part: LayerPart) -> LayerPlacement | None:
        first_part = tuple(part if index == device else own for index, own in enumerate(placed.first_part))
        candidate = replace(placed, layers=tuple(layers), partial=tuple(lacking), first_part=first_part)
        used = memory(candidate)
        neighbours = range(device, min(device + 2, len(targets)))
        return candidate if all(used[index] < targets[index] for index in neighbours) else None

    half = attempt(LayerPart.GATE_AND_DOWN)
    if half is not None:
        return attempt(LayerPart.DOWN) or half
    return attempt(LayerPart.FEED_FORWARD) or placed
