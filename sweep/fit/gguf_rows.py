"""Rows of a fit: one variant placed on the devices of a machine, with every figure and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sweep.fit.account import Account, Parts, used_by
from sweep.fit.fit_report import (
    DRY_RUN,
    ESTIMATE,
    HOST,
    LOAD,
    MARGIN,
    DeviceShare,
    FitFigure,
    FitOptions,
    FitRow,
)
from sweep.fit.formulas import CELLS, padded
from sweep.fit.layer_bytes import Kept
from sweep.fit.placement import LayerPlacement, Machine, choose, choose_whole

MOST_CHECKS = 8  # contexts that llama.cpp is asked for to find the largest
_BACKENDS = {"cuda": "CUDA", "rocm": "ROCm", "metal": "Metal", "sycl": "SYCL", "vulkan": "Vulkan"}
"""What llama.cpp calls devices of each kind, before their number."""


@dataclass(frozen=True)
class FitFile:
    """A GGUF file as it is or would be: what it is called, its length, and whether types are yet to be chosen."""

    name: str
    bytes: int
    bits_per_weight: float
    exact: bool
    planned: bool


def gguf_row(variant: str, account: Account, machine: Machine, file: FitFile, projector: FitFigure) -> FitRow:
    """A GGUF file on the machine."""
    options = account.contexts.options
    placement = _placement(account, machine, options.context, options.offload)
    parts = account.parts(placement, options.context)
    shares = _shares(parts, machine)
    held = _holds(parts, machine)
    wholly = placement.is_full or not machine.gpus
    fits = wholly and held
    figures = {**_figures(account, placement, parts, machine, file), "projector": projector}
    return FitRow(
        variant=variant,
        kind="gguf",
        file_bytes=file.bytes,
        bits_per_weight=file.bits_per_weight,
        figures=figures,
        shares=shares,
        total_bytes=int(parts.total.sum()),
        fits=fits,
        headroom_bytes=_headroom(account, machine, shares, fits),
        max_context=_longest(account, machine, fits),
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


def _placement(account: Account, machine: Machine, context: int, offload: str) -> LayerPlacement:
    total = account.shape.layers + 1
    if not machine.gpus:
        return machine.everything(total)
    free = [gpu.usable_bytes for gpu in machine.gpus]

    def memory(placement: LayerPlacement) -> list[int]:
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
        used = [share for share in (shares[:-1] if machine.gpus else shares) if share.total_bytes]
        return min(share.free_bytes for share in used)
    whole = machine.everything(account.shape.layers + 1)
    used_bytes = used_by(account.parts(whole, account.contexts.options.context), machine.shared)
    together = sum(machine.targets) - sum(used_bytes)
    tightest = min(target - one for target, one in zip(machine.targets, used_bytes, strict=True))
    return min(together if together < 0 else tightest, -1)


def _longest(account: Account, machine: Machine, fits_asked: bool) -> int | None:
    """The largest context, in llama.cpp's steps, with which all is on the devices, layers whole.

    What is found along straight lines llama.cpp is asked for, and if it does not fit the search goes on below it. Where
    it takes a layer divided between devices to hold the context asked for, that one is it.
    """

    def placed(steps: int) -> LayerPlacement:
        return _placement(account, machine, steps * CELLS, "none")

    def fits(steps: int) -> bool:
        placement = placed(steps)
        parts = account.parts(placement, steps * CELLS)
        return (placement.is_full or not machine.gpus) and _holds(parts, machine)

    room = sum(machine.targets) if machine.gpus else machine.host.usable_bytes if machine.host is not None else 0
    if int(account.weights.layers.sum()) > room > 0:
        return None
    longest = account.shape.train_context // CELLS
    asked = min(padded(account.contexts.options.context) // CELLS, longest)
    low, high = (asked, longest + 1) if fits_asked or fits(asked) else (0, asked)
    for _ in range(MOST_CHECKS):
        found = low if high <= low + 1 else _last(low, high, fits)
        if found == low or account.contexts.is_known(placed(found), found * CELLS):
            return found * CELLS or None
        account.contexts.ask(placed(found), found * CELLS)
        if fits(found):
            return found * CELLS
        high = found
    return low * CELLS or None


def _last(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The last number from `low`, which fits, to `high`, which does not, that fits too."""
    if fits(high - 1):
        return high - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _bound(account: Account, placement: LayerPlacement, machine: Machine) -> float | None:
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
    account: Account, placement: LayerPlacement, parts: Parts, machine: Machine, file: FitFile
) -> Mapping[str, FitFigure]:
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
        "weights": FitFigure(
            int(parts.weights.sum()) - account.projector, DRY_RUN if file.planned else "the file's header", weights
        ),
        "kv": FitFigure(
            int(parts.kv.sum()),
            LOAD,
            f"{attention} attention layers x {cells} x {formulas.explained_cell(options.kv_type_k, options.kv_type_v)}"
            f" = {account.cell_bytes:.0f} B a cell and layer",
        ),
        "recurrent": FitFigure(
            int(parts.recurrent.sum()),
            LOAD,
            f"{linear} linear-attention layers x {formulas.explained_state} x {options.parallel} sequences"
            if linear
            else "no linear-attention layers",
        ),
        "compute": FitFigure(int(parts.compute.sum()), f"{measured} + {ESTIMATE}" if copied else measured, compute),
        "output": FitFigure(
            int(parts.output.sum()), LOAD, f"{formulas.vocabulary} logits x 4 B x {options.parallel} sequences"
        ),
        "reserve": FitFigure(
            sum(gpu.reserve_bytes for gpu in machine.gpus) or (machine.host.reserve_bytes if machine.host else 0),
            MARGIN,
            "kept free on each device: the driver's own context and a margin",
        ),
    }


def arguments(file: str, placement: LayerPlacement, kinds: Sequence[str], options: FitOptions) -> str:
    """Ready to paste behind the program's name, quoted for a shell. `kinds` are those of the devices."""
    words = ["-m", _quoted(file), "-c", str(padded(options.context) * options.parallel), "-np", str(options.parallel)]
    if placement.layers:
        words += ["-ngl", str(placement.on_devices)]
    if len(placement.layers) > 1 and placement.on_devices:
        words += ["-ts", ",".join(map(str, placement.layers))]
    overrides = _overrides(placement, kinds)
    if overrides:
        words += ["-ot", f"'{overrides}'"]
    for flag, kind in (("-ctk", options.kv_type_k), ("-ctv", options.kv_type_v)):
        if kind != "f16":
            words += [flag, kind]
    for flag, size, default in (("-b", options.batch, 2048), ("-ub", options.ubatch, 512)):
        if size != default:
            words += [flag, str(size)]
    if options.flash_attention is not None:
        words += ["-fa", "on" if options.flash_attention else "off"]
    return " ".join(words)


def _overrides(placement: LayerPlacement, kinds: Sequence[str]) -> str:
    places = {None: "CPU"} | {
        index: f"{_BACKENDS.get(kind, kind)}{kinds[:index].count(kind)}" for index, kind in enumerate(kinds)
    }
    return ",".join(f"{pattern}={places[place]}" for pattern, place in placement.elsewhere())


def _quoted(file: str) -> str:
    return (
        file
        if all(letter.isalnum() or letter in "-_./+" for letter in file)
        else "'" + file.replace("'", "'\\''") + "'"
    )
