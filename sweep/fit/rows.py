"""Rows of a fit: one variant placed on the devices of a machine, with every figure and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from sweep.fit.account import Account, Parts, used_by
from sweep.fit.arguments import arguments
from sweep.fit.contexts import CELLS, padded
from sweep.fit.device import Device
from sweep.fit.layers import Kept
from sweep.fit.placement import Placement, choose, choose_whole, proportional
from sweep.fit.report import DeviceShare, Figure, Row

HOST = "RAM"
DRY_RUN, LOAD, FORMULA, ESTIMATE, MARGIN = (
    "llama.cpp dry run",
    "llama.cpp no_alloc load",
    "formula",
    "estimate",
    "margin",
)
COPYING = ("cuda", "rocm", "metal", "sycl", "vulkan")
"""Kinds of devices whose backends in llama.cpp do so ("offload_op"); RPC's does not."""


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
        """Bytes that a model may take of each GPU."""
        return [device.usable_bytes - device.reserve_bytes for device in self.gpus]

    def everything(self, layers: int) -> Placement:
        """All layers on the GPUs, divided by their free memory, as llama.cpp does when it is told nothing."""
        return Placement.whole(layers, proportional(layers, [gpu.usable_bytes for gpu in self.gpus]))

    @property
    def shared(self) -> list[bool]:
        """Whether a GPU's memory is the host's, as Apple's is."""
        return [device.kind == "metal" for device in self.gpus]


@dataclass(frozen=True)
class File:
    """A GGUF file as it is or would be: what it is called, its length, and whether types are yet to be chosen."""

    name: str
    bytes: int
    bits_per_weight: float
    exact: bool
    planned: bool


def gguf_row(variant: str, account: Account, machine: Machine, file: File, projector: Figure) -> Row:
    """A GGUF file on the machine."""
    options = account.contexts.options
    placement = _placement(account, machine, options.context, options.offload)
    parts = account.parts(placement, options.context)
    shares = _shares(parts, machine)
    held = _holds(parts, machine)
    wholly = placement.is_full or not machine.gpus
    fits = wholly and held
    figures = {**_figures(account, placement, parts, machine, file), "projector": projector}
    return Row(
        variant=variant,
        kind="gguf",
        file_bytes=file.bytes,
        bits_per_weight=file.bits_per_weight,
        figures=figures,
        shares=shares,
        total_bytes=int(parts.total.sum()) + projector.bytes,
        fits=fits,
        headroom_bytes=_headroom(account, machine, shares, fits),
        max_context=_longest(account, machine),
        gpu_layers=placement.on_devices,
        n_layers=placement.total,
        cpu_moe_layers=sum(part is Kept.EXPERTS and device is None for _, part, device in placement.parted()),
        tensor_split=placement.layers,
        arguments=arguments(file.name, placement, [gpu.kind for gpu in machine.gpus], options),
        decode_bound=_bound(account, placement, machine),
        placed_by=("rpc" if account.contexts.devices else "estimate") if machine.gpus else "cpu",
        partial=held and not wholly,
        file_exact=file.exact,
    )


def _placement(account: Account, machine: Machine, context: int, offload: str) -> Placement:
    total = account.shape.layers + 1
    if not machine.gpus:
        return machine.everything(total)
    free = [gpu.usable_bytes for gpu in machine.gpus]

    def memory(placement: Placement) -> list[int]:
        return used_by(account.parts(placement, context), machine.shared)

    # Where RAM is the device's own memory nothing is gained by leaving layers there.
    if offload == "none" or any(machine.shared):
        return choose_whole(total, free, machine.targets, memory)
    return choose(total, free, machine.targets, account.shape.experts > 0, memory)


def _holds(parts: Parts, machine: Machine) -> bool:
    used = used_by(parts, machine.shared)
    devices = all(one <= target for one, target in zip(used, machine.targets, strict=True))
    host = machine.host
    return devices and (host is None or int(parts.total[-1]) <= host.usable_bytes - host.reserve_bytes)


def _shares(parts: Parts, machine: Machine) -> tuple[DeviceShare, ...]:
    found = []
    for place, device in enumerate([*machine.gpus, machine.host]):
        sizes = {
            "weights_bytes": int(parts.weights[place]),
            "kv_bytes": int(parts.kv[place]),
            "recurrent_bytes": int(parts.recurrent[place]),
            "compute_bytes": int(parts.compute[place]),
            "output_bytes": int(parts.output[place]),
        }
        # Of a host that is not known there is as much as is taken.
        usable, reserve = (sum(sizes.values()), 0) if device is None else (device.usable_bytes, device.reserve_bytes)
        name = HOST if device is None or (place == len(machine.gpus) and machine.gpus) else device.name
        found.append(DeviceShare(name, **sizes, reserve_bytes=reserve, usable_bytes=usable))
    return tuple(found)


def _headroom(account: Account, machine: Machine, shares: Sequence[DeviceShare], fits: bool) -> int:
    """Bytes left on the tightest device; or, below 0, what all devices together lack, or the tightest alone."""
    if fits or not machine.gpus:
        used = [share for share in shares if share.total_bytes] if not machine.gpus else shares[:-1]
        return min(share.free_bytes for share in used)
    whole = machine.everything(account.shape.layers + 1)
    used_bytes = used_by(account.parts(whole, account.contexts.options.context), machine.shared)
    together = sum(machine.targets) - sum(used_bytes)
    tightest = min(target - one for target, one in zip(machine.targets, used_bytes, strict=True))
    return min(together if together < 0 else tightest, -1)


def _longest(account: Account, machine: Machine) -> int | None:
    """The largest context, in llama.cpp's steps, with which all is on the devices."""

    def fits(steps: int) -> bool:
        placement = _placement(account, machine, steps * CELLS, "none")
        parts = account.parts(placement, steps * CELLS)
        return (placement.is_full or not machine.gpus) and _holds(parts, machine)

    room = sum(machine.targets) if machine.gpus else machine.host.usable_bytes if machine.host is not None else 0
    if int(account.weights.layers.sum()) > room > 0:
        return None
    high = account.shape.train_context // CELLS
    asked = min(padded(account.contexts.options.context) // CELLS, high)
    low = 0
    if fits(asked):
        low = asked
    else:
        high = asked
    if low and fits(high):
        return high * CELLS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * CELLS or None


def _bound(account: Account, placement: Placement, machine: Machine) -> float | None:
    """Tokens a second if each place in turn read its share of a token's bytes at full bandwidth."""
    bandwidths = [device.bandwidth if device is not None else None for device in (*machine.gpus, machine.host)]
    seconds = 0.0
    for read, bandwidth in zip(account.read_per_token(placement), bandwidths, strict=True):
        if read > 0 and bandwidth is None:
            return None
        if read > 0 and bandwidth is not None:
            seconds += read / bandwidth
    return 1 / seconds if seconds else None


def _figures(
    account: Account, placement: Placement, parts: Parts, machine: Machine, file: File
) -> Mapping[str, Figure]:
    options, formulas, contexts = account.contexts.options, account.formulas, account.contexts
    attention, linear = len(account.told.attention_layers), len(account.told.recurrent_layers)
    cells = f"{padded(options.context)} cells x {options.parallel} sequences"
    weights = f"sum over tensors of rows x row bytes of their types = {account.weights.file} B"
    skipped = account.weights.file - account.weights.embedding - int(account.weights.layers.sum())
    if account.shape.tied and machine.gpus:
        skipped += account.weights.embedding
        weights += f" + {account.weights.embedding} B of tied embeddings on a device once more"
    if skipped > 0:
        weights += f" - {skipped} B of multi-token prediction layers, which are not loaded"
    copied = account.copied_bytes(placement) if account.copies else 0
    compute = f"largest of llama.cpp's graphs for {options.ubatch} tokens, on each device and in RAM"
    if copied:
        compute += f" + {copied} B for a copy of the largest matrix in RAM on the first device (estimate)"
    measured = LOAD if contexts.devices or not machine.gpus else ESTIMATE
    return {
        "weights": Figure(int(parts.weights.sum()), DRY_RUN if file.planned else "the file's header", weights),
        "kv": Figure(
            int(parts.kv.sum()),
            LOAD,
            f"{attention} attention layers x {cells} x {formulas.explained_cell(options.kv_type_k, options.kv_type_v)}"
            f" = {account.cell_bytes:.0f} B a cell and layer",
        ),
        "recurrent": Figure(
            int(parts.recurrent.sum()),
            LOAD,
            f"{linear} linear-attention layers x {formulas.explained_state} x {options.parallel} sequences"
            if linear
            else "no linear-attention layers",
        ),
        "compute": Figure(int(parts.compute.sum()), f"{measured} + {ESTIMATE}" if copied else measured, compute),
        "output": Figure(
            int(parts.output.sum()), LOAD, f"{formulas.vocabulary} logits x 4 B x {options.parallel} sequences"
        ),
        "reserve": Figure(
            sum(gpu.reserve_bytes for gpu in machine.gpus) or (machine.host.reserve_bytes if machine.host else 0),
            MARGIN,
            "kept free on each device: the driver's own context and a margin",
        ),
    }
