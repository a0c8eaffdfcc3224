"""Which layers go to which device, and whose experts stay in RAM: chosen as llama.cpp's own fit chooses.

The order of things is that of `common/fit.cpp`: everything as it comes; else whole layers from the last device to the
first, of a mixture of experts without its experts; then experts added from the first device to the last, and at the
end a part of one more layer. There each step is tried by a load; here the sizes of layers are known and added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import psutil

from sweep.fit.fit_report import HOST
from sweep.fit.hardware import Device
from sweep.fit.layer_bytes import Kept

Memory = Callable[["LayerPlacement"], Sequence[int]]
"""Bytes that a placement takes of each device."""


COPYING = ("cuda", "rocm", "metal", "sycl", "vulkan")
"""Kinds of devices whose backends in llama.cpp do so ("offload_op"); RPC's does not."""


@dataclass(frozen=True)
class LayerPlacement:
    """The last `sum(layers)` of `total` layers are on devices, `layers[i]` of them on the i-th, in order.

    Of the last `partial[i]` of those the experts are elsewhere: in RAM. Of the first of these it may be another part,
    `first[i]`; then that goes to the next device, if there is one.
    """

    total: int
    layers: tuple[int, ...]
    partial: tuple[int, ...]
    first: tuple[Kept, ...]

    @classmethod
    def whole(cls, total: int, layers: Sequence[int]) -> LayerPlacement:
        """Layers with all that belongs to them."""
        return cls(total, tuple(layers), (0,) * len(layers), (Kept.EXPERTS,) * len(layers))

    @property
    def on_devices(self) -> int:
        return sum(self.layers)

    @property
    def in_ram(self) -> int:
        """Layers of which nothing is on a device; they are the first."""
        return self.total - self.on_devices

    @property
    def is_full(self) -> bool:
        """Whether all layers are on devices with all that belongs to them, if not each on one alone."""
        return not self.in_ram and all(device is not None for _, _, device in self.parted())

    def span(self, device: int) -> range:
        """The layers of a device."""
        start = self.in_ram + sum(self.layers[:device])
        return range(start, start + self.layers[device])

    def parted(self) -> list[tuple[int, Kept, int | None]]:
        """Each layer of which a part is elsewhere: its number, the part, and on which device, or None for RAM."""
        result: list[tuple[int, Kept, int | None]] = []
        for device, count in enumerate(self.partial):
            for index, layer in enumerate(self.span(device)[self.layers[device] - count :]):
                if layer == self.total - 1:  # the output has no experts; llama.cpp counts it among these all the same
                    continue
                part = self.first[device] if index == 0 else Kept.EXPERTS
                next_device = device + 1 if device + 1 < len(self.layers) and part is not Kept.EXPERTS else None
                result.append((layer, part, next_device))
        return result

    def elsewhere(self) -> tuple[tuple[str, int | None], ...]:
        """The same as patterns of tensors' names and where they go, one for all layers alike, for `LoadOptions`."""
        groups: dict[tuple[Kept, int | None], list[str]] = {}
        for layer, part, device in self.parted():
            groups.setdefault((part, device), []).append(str(layer))
        return tuple(
            (rf"blk\.{layers[0] if len(layers) == 1 else '(' + '|'.join(layers) + ')'}\.{part.value}", device)
            for (part, device), layers in groups.items()
        )


def proportional(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """How many of `total` layers each device gets where llama.cpp divides them by shares (in single precision)."""
    ends = np.cumsum(np.array(shares, np.float32), dtype=np.float32)
    if not any(shares):
        return (0,) * len(shares)
    ends /= ends[-1]
    positions = np.arange(total, dtype=np.float32) / np.float32(total)
    owners = np.searchsorted(ends, positions, side="right")
    return tuple(int((owners == device).sum()) for device in range(len(shares)))


@dataclass(frozen=True)
class Machine:
    """The devices that layers go to, and the host: `host` is None where its RAM is not known."""

    gpus: tuple[Device, ...]
    host: Device | None

    @classmethod
    def of(cls, devices: Sequence[Device]) -> Machine:
        """A device of the kind "cpu" is the host; beside devices that are present it is this machine."""
        gpus = tuple(device for device in devices if device.kind != "cpu")
        host = next((device for device in devices if device.kind == "cpu"), None)
        if host is None and not any(device.simulated for device in gpus):
            memory = psutil.virtual_memory()
            host = Device(HOST, "cpu", memory.total, memory.available, None, False, 0)
        return cls(gpus, host)

    @property
    def copies(self) -> bool:
        """Whether the first GPU computes long batches with weights that are in RAM, for which it copies them."""
        return bool(self.gpus) and self.gpus[0].kind in COPYING

    @property
    def targets(self) -> list[int]:
        """Bytes that a model may take of each GPU; nothing of one that has less free than must stay so."""
        return [max(0, device.usable_bytes - device.reserve_bytes) for device in self.gpus]

    def everything(self, layers: int) -> LayerPlacement:
        """All layers on the GPUs, divided by their free memory, as llama.cpp does when it is told nothing."""
        return LayerPlacement.whole(layers, proportional(layers, [gpu.usable_bytes for gpu in self.gpus]))

    @property
    def shared(self) -> list[bool]:
        """Whether a GPU's memory is the host's, as Apple's is."""
        return [device.kind == "metal" for device in self.gpus]


def choose(total: int, free: Sequence[int], targets: Sequence[int], experts: bool, memory: Memory) -> LayerPlacement:
    """Where to put `total` layers on devices that have `free` bytes, of which the model may take `targets`.

    `experts`: whether there are any that could stay in RAM. A device may be left empty; all can.
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


def choose_whole(total: int, free: Sequence[int], targets: Sequence[int], memory: Memory) -> LayerPlacement:
    """The same where nothing may stay in RAM: the placement that comes nearest to that."""
    everything = LayerPlacement.whole(total, proportional(total, free))
    if len(targets) < 2 or _within(memory(everything), targets):
        return everything
    filled = _filled(total, targets, False, memory)
    return filled if filled.is_full else everything


def _within(used: Sequence[int], targets: Sequence[int]) -> bool:
    return all(one <= target for one, target in zip(used, targets, strict=True))


def _expert_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """How many of these layers can leave their experts elsewhere: all but the output, the last of the last device."""
    last = len(layers) - 1
    return tuple(max(0, count - 1) if device == last else count for device, count in enumerate(layers))


def _filled(total: int, targets: Sequence[int], experts: bool, memory: Memory) -> LayerPlacement:
    """Each device as full as it can be, the last one first; layers of a mixture of experts without these."""
    placed = LayerPlacement.whole(total, (0,) * len(targets))
    for device in reversed(range(len(targets))):
        before = placed

        def with_layers(count: int, device: int = device, before: LayerPlacement = before) -> LayerPlacement:
            layers = tuple(count if index == device else own for index, own in enumerate(before.layers))
            return replace(before, layers=layers, partial=_expert_layers(layers) if experts else before.partial)

        placed = _most(before.in_ram, with_layers, device, targets, memory)
    return placed


def _most(
    high: int, place: Callable[[int], LayerPlacement], device: int, targets: Sequence[int], memory: Memory
) -> LayerPlacement:
    """What `place` makes of the largest count up to `high` with which the device has room; 0 is taken to be one."""
    if high <= 0 or memory(place(high))[device] <= targets[device]:
        return place(max(high, 0))
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory(place(middle))[device] <= targets[device] else (low, middle)
    return place(low)


def _with_experts(placed: LayerPlacement, targets: Sequence[int], memory: Memory) -> LayerPlacement:
    """Layers without their experts made whole from the first device on, and part of one more layer on each.

    Those that are still to be made whole are on the devices from `start` on.
    """
    start = _first_partial(placed, 0)
    device = 0
    while start is not None and device <= start:
        whole = partial(_made_whole, placed, start, device)
        placed = _most(sum(placed.partial[start:]), whole, device, targets, memory)
        start = _first_partial(placed, start)
        if start is not None:
            placed = _one_more(placed, start, device, targets, memory)
            start = _first_partial(placed, start)
        device += 1
    return placed


def _first_partial(placed: LayerPlacement, start: int) -> int | None:
    return next((index for index in range(start, len(placed.partial)) if placed.partial[index]), None)


def _made_whole(placed: LayerPlacement, start: int, device: int, count: int) -> LayerPlacement:
    """The next `count` layers that lack their experts moved to a device and completed."""
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
    placed: LayerPlacement, start: int, device: int, targets: Sequence[int], memory: Memory
) -> LayerPlacement:
    """One layer more on the device, of which only a part is elsewhere: as small a part as there is room for."""
    layers, lacking = list(placed.layers), list(placed.partial)
    layers[start] -= 1
    lacking[start] -= 1
    layers[device] += 1
    lacking[device] += 1

    def attempt(part: Kept) -> LayerPlacement | None:
        first = tuple(part if index == device else own for index, own in enumerate(placed.first))
        tried = replace(placed, layers=tuple(layers), partial=tuple(lacking), first=first)
        used = memory(tried)
        neighbours = range(device, min(device + 2, len(targets)))
        return tried if all(used[index] < targets[index] for index in neighbours) else None

    half = attempt(Kept.GATE_AND_DOWN)
    if half is not None:
        return attempt(Kept.DOWN) or half
    return attempt(Kept.FEED_FORWARD) or placed
