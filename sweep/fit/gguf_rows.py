"""Places one GGUF variant on the devices of a machine and makes its row of the fit report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from converters.plan import projector_name
from converters.shell import join
from sweep.fit.fit_report import (
    DRY_RUN,
    ESTIMATE,
    HOST,
    LOAD,
    MARGIN,
    DeviceShare,
    DraftBytes,
    FitFigure,
    FitOptions,
    FitRow,
)
from sweep.fit.formulas import counted_sequences, padded
from sweep.fit.hardware import reserve_formula
from sweep.fit.image_tokens import ProjectorFit
from sweep.fit.layer_bytes import LayerPart
from sweep.fit.longest_context import holds, longest_context, place_variant
from sweep.fit.placement import FitMachine, LayerPlacement
from sweep.fit.server_arguments import ServerSettings, server_words
from sweep.fit.variant_memory import Draft, MemoryParts, VariantMemory, bytes_per_device
from sweep.fit.weight_types import WeightTypes

_BACKENDS = {"cuda": "CUDA", "rocm": "ROCm", "metal": "Metal", "sycl": "SYCL", "vulkan": "Vulkan"}
"""llama.cpp's names of devices by kind, without their number."""
_DRAFT_PARTS = {
    "weights": "weights",
    "kv": "KV cache",
    "recurrent": "recurrent state",
    "compute": "compute buffers",
    "output": "output buffer",
}


@dataclass(frozen=True)
class FitFile:
    """A GGUF file that exists or could be made."""

    name: str  # for the option -m of llama.cpp's programs
    bytes: int
    bits_per_weight: float
    exact: bool  # False: the size of the header is an estimate
    planned: bool  # True: the file does not exist; its types come from the quantizer's dry run
    types: WeightTypes


def gguf_row(
    variant: str,
    memory: VariantMemory,
    machine: FitMachine,
    file: FitFile,
    projector: FitFigure,
    tower: ProjectorFit | None = None,
    model: str = "",
) -> FitRow:
    """The row of one GGUF variant on the machine. `tower`: the vision tower that runs beside it; `model` is the text
    model's name, after which its file would be named."""
    options = memory.contexts.options
    # If a device's memory is RAM, leaving layers in RAM frees no memory.
    offload = options.offload == "auto" and bool(machine.gpus) and not any(machine.shared)
    placement = place_variant(memory, machine, options.context, offload)
    parts = memory.parts(placement, options.context)
    shares = _shares(parts, machine, memory.bytes_read_per_token(placement))
    held = holds(parts, machine)
    is_whole = placement.is_full or not machine.gpus
    fits = is_whole and held
    drafted = memory.draft.parts(placement, options.context) if memory.draft is not None else None
    own = parts if drafted is None else parts - drafted
    figures = {**_figures(memory, placement, own, machine, file), "projector": projector}
    draft = None
    if memory.draft is not None and drafted is not None:
        draft = _draft_bytes(memory.draft, drafted)
        figures["draft"] = _draft_figure(memory, draft, figures)
    return FitRow(
        variant=variant,
        kind="gguf",
        file_bytes=file.bytes,
        bits_per_weight=file.bits_per_weight,
        figures=figures,
        shares=shares,
        total_bytes=int(parts.total.sum()),
        fits=fits,
        headroom_bytes=_headroom(memory, machine, shares, fits),
        max_context=longest_context(memory, machine, False, fits),
        max_context_with_ram=longest_context(memory, machine, True, held) if offload else None,
        gpu_layers=placement.on_devices,
        n_layers=placement.total,
        cpu_moe_layers=sum(
            part is LayerPart.EXPERTS and device is None for _, part, device in placement.split_layers()
        ),
        tensor_split=placement.layers,
        arguments=" ".join(
            [
                arguments(file.name, placement, [gpu.kind for gpu in machine.gpus], options, _projector(tower, model)),
                *([] if memory.draft is None else [memory.draft.arguments]),
            ]
        ),
        # Speculative decoding gives more than one token for one reading of the weights.
        decode_bound=_bound(memory, placement, machine) if draft is None else None,
        placed_by=("rpc" if memory.contexts.devices else "estimate") if machine.gpus else "cpu",
        partial=held and not is_whole,
        draft=draft,
        mtp_bytes=0 if memory.shape.loads_mtp else memory.weights.mtp,
        file_exact=file.exact,
        weight_types=file.types,
        projector_type=tower.name if tower is not None and not tower.exists else None,
    )


def _projector(tower: ProjectorFit | None, model: str) -> str:
    """The path of the projector file; "" without one."""
    if tower is None:
        return ""
    return tower.name if tower.exists else projector_name(model, tower.name)


def _draft_bytes(draft: Draft, parts: MemoryParts) -> DraftBytes:
    return DraftBytes(
        int(parts.weights.sum()) + draft.shared_weights,
        int(parts.kv.sum()),
        int(parts.recurrent.sum()),
        int(parts.compute.sum()),
        int(parts.output.sum()),
    )


def _draft_figure(memory: VariantMemory, draft: DraftBytes, figures: Mapping[str, FitFigure]) -> FitFigure:
    """All of the draft as one figure."""
    assert memory.draft is not None
    parts = {name.removesuffix("_bytes"): size for name, size in asdict(draft).items() if size}
    words = " + ".join(f"{size} B {_DRAFT_PARTS[name]}" for name, size in parts.items())
    source = figures["compute"].source.partition(" + ")[0]
    return FitFigure(sum(parts.values()), f"{DRY_RUN}, {source}", f"{words} of the draft {memory.draft.name}")


def _shares(parts: MemoryParts, machine: FitMachine, read: npt.NDArray[np.float64]) -> tuple[DeviceShare, ...]:
    found = []
    for place, device in enumerate([*machine.gpus, machine.host]):
        sizes = {
            "weights_bytes": int(parts.weights[place]),
            "kv_bytes": int(parts.kv[place]),
            "recurrent_bytes": int(parts.recurrent[place]),
            "compute_bytes": int(parts.compute[place]),
            "output_bytes": int(parts.output[place]),
        }
        # If the size of RAM is unknown, it is assumed to be large enough.
        usable, reserve = (sum(sizes.values()), 0) if device is None else (device.usable_bytes, device.reserve_bytes)
        name = HOST if device is None or (place == len(machine.gpus) and machine.gpus) else device.name
        found.append(
            DeviceShare(name, **sizes, reserve_bytes=reserve, usable_bytes=usable, read_bytes=int(read[place]))
        )
    return tuple(found)


def _headroom(memory: VariantMemory, machine: FitMachine, shares: Sequence[DeviceShare], fits: bool) -> int:
    """Free bytes on the fullest device after its reserve; negative if the variant does not fit.

    The negative value is what all devices together lack or, if the sum would suffice, what the fullest device lacks.
    """
    if fits or not machine.gpus:
        used = [share for share in (shares[:-1] if machine.gpus else shares) if share.total_bytes]
        return min(share.free_bytes for share in used)
    whole = machine.everything(memory.shape.layers + 1)
    used_bytes = bytes_per_device(memory.parts(whole, memory.contexts.options.context), machine.shared)
    together = sum(machine.targets) - sum(used_bytes)
    fullest = min(target - used for target, used in zip(machine.targets, used_bytes, strict=True))
    return min(together if together < 0 else fullest, -1)


def _bound(memory: VariantMemory, placement: LayerPlacement, machine: FitMachine) -> float | None:
    """Upper bound of tokens per second: the devices read their bytes of a token one after another at full bandwidth.

    None if the bandwidth of a device that holds a part is unknown.
    """
    bandwidths = [device.bandwidth if device is not None else None for device in (*machine.gpus, machine.host)]
    seconds = 0.0
    for read, bandwidth in zip(memory.bytes_read_per_token(placement), bandwidths, strict=True):
        if read > 0 and bandwidth is None:
            return None
        if read > 0 and bandwidth is not None:
            seconds += read / bandwidth
    return 1 / seconds if seconds else None


def _figures(
    memory: VariantMemory, placement: LayerPlacement, parts: MemoryParts, machine: FitMachine, file: FitFile
) -> Mapping[str, FitFigure]:
    options, formulas, contexts = memory.contexts.options, memory.formulas, memory.contexts
    attention, linear = len(memory.context_memory.attention_layers), len(memory.context_memory.recurrent_layers)
    sequences = counted_sequences(options.parallel)
    cells = f"{padded(options.context)} cells x {sequences}"
    weights = f"sum over tensors of rows x row bytes of their types = {memory.weights.file} B"
    skipped = memory.weights.file - memory.weights.embedding - int(memory.weights.layers.sum())
    if memory.shape.tied and machine.gpus:
        skipped += memory.weights.embedding
        weights += f" + {memory.weights.embedding} B for a second copy of the tied embeddings on a device"
    shared = 0 if memory.draft is None else memory.draft.shared_weights
    if skipped + shared > 0:
        why = "count as the draft" if shared else "are not loaded"
        weights += f" - {skipped + shared} B of multi-token prediction layers, which {why}"
    copied = memory.copied_bytes(placement) if memory.copies_weights else 0
    compute = f"compute buffers of llama.cpp's largest graph for {options.ubatch} tokens, on each device and in RAM"
    if copied:
        compute += f" + {copied} B on the first device for a copy of the largest matrix that is in RAM (estimate)"
    measured = LOAD if contexts.devices or not machine.gpus else ESTIMATE
    return {
        "weights": FitFigure(
            int(parts.weights.sum()) - memory.projector - shared,
            DRY_RUN if file.planned else "the file's header",
            weights,
        ),
        "kv": FitFigure(
            int(parts.kv.sum()),
            LOAD,
            f"{attention} attention layers x {cells} x {formulas.explained_cell(options.kv_type_k, options.kv_type_v)}"
            f" = {memory.cell_bytes:.0f} B per cell and layer",
        ),
        "recurrent": FitFigure(
            int(parts.recurrent.sum()),
            LOAD,
            f"{linear} linear-attention layers x {formulas.explained_state} x {sequences}"
            + (f" x {memory.state_copies} copies" if memory.state_copies > 1 else "")
            if linear
            else "no linear-attention layers",
        ),
        "compute": FitFigure(int(parts.compute.sum()), f"{measured} + {ESTIMATE}" if copied else measured, compute),
        "output": FitFigure(int(parts.output.sum()), LOAD, f"{formulas.vocabulary} logits x 4 B x {sequences}"),
        "reserve": FitFigure(
            sum(gpu.reserve_bytes for gpu in machine.gpus) or (machine.host.reserve_bytes if machine.host else 0),
            MARGIN,
            reserve_formula(machine.gpus or ([machine.host] if machine.host else [])),
        ),
    }


def arguments(
    file: str, placement: LayerPlacement, kinds: Sequence[str], options: FitOptions, projector: str = ""
) -> str:
    """Arguments of llama-server or llama-cli for this placement, quoted for a shell; `kinds` are the devices' kinds,
    `projector` the path of a projector file."""
    split = placement.layers if len(placement.layers) > 1 and placement.on_devices else ()
    settings = ServerSettings(
        context=padded(options.context) * options.parallel,
        sequences=options.parallel,
        gpu_layers=placement.on_devices if placement.layers else None,
        tensor_split=split,
        overrides=_overrides(placement, kinds),
        kv_types=(options.kv_type_k, options.kv_type_v),
        batch=options.batch,
        ubatch=options.ubatch,
        flash_attention=options.flash_attention,
        yarn=options.yarn,
    )
    return join(server_words(file, settings, projector))


def _overrides(placement: LayerPlacement, kinds: Sequence[str]) -> str:
    places = {None: "CPU"} | {
        index: f"{_BACKENDS.get(kind, kind)}{kinds[:index].count(kind)}" for index, kind in enumerate(kinds)
    }
    return ",".join(f"{pattern}={places[place]}" for pattern, place in placement.tensor_overrides())
