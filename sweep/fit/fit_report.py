"""The fit report: for each variant its memory part by part, its placement, and whether it fits.

`to_json` writes the report and `from_json` reads it; scripts depend on the names of the JSON fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from presets.long_context import Yarn
from sweep.fit.hardware import Device
from sweep.fit.image_tokens import ImageSize, ImageTokens, ProjectorFit
from sweep.fit.weight_types import WeightTypes
from sweep.format import size
from sweep.kv_cache import KVCache

DRY_RUN, LOAD, FORMULA, ESTIMATE, MARGIN = (
    "llama.cpp dry run",
    "llama.cpp no_alloc load",
    "formula",
    "estimate",
    "margin",
)
"""The sources of figures."""
HOST = "RAM"
# The parts of a variant's memory, in the order of a report.
PARTS = ("weights", "kv", "recurrent", "compute", "output", "projector", "draft", "reserve")
GGUF = "gguf"  # the kind of variants that llama.cpp runs
MTP = "mtp"  # the draft that is the model's own layers for multi-token prediction


@dataclass(frozen=True)
class FitOptions:
    """How the model will run; llama-server has options for the same settings."""

    context: int = 0  # tokens per sequence; 0: DEFAULT_CONTEXT, or the model's trained context if that is shorter
    yarn: Yarn | None = None  # for a context longer than the trained one; follows from it
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    parallel: int = 1  # number of sequences at the same time
    ubatch: int = 512  # tokens of a micro-batch
    batch: int = 2048  # tokens of a batch
    flash_attention: bool | None = None  # None: llama.cpp decides
    projector: bool = False  # whether the vision tower counts
    mmproj: str = ""  # the type of its projector file, or the path of one; empty: F16, or the file next to a GGUF file
    images: tuple[ImageSize, ...] = ()  # of each sequence
    draft: str = ""  # for speculative decoding: MTP, or a second model; empty: none
    offload: str = "auto"  # "auto": partly in RAM if the variant does not fit; "none": all of it on the devices

    @property
    def kv_cache(self) -> KVCache:
        return KVCache(self.kv_type_k, self.kv_type_v)


@dataclass(frozen=True)
class FitFigure:
    """A number of bytes, its source, and the formula by which it can be checked."""

    bytes: int
    source: str  # "llama.cpp dry run" | "llama.cpp no_alloc load" | "formula" | "estimate" | "margin" | ...
    formula: str


@dataclass(frozen=True)
class DeviceShare:
    """The part of a variant on one device, or on the host (RAM), in bytes."""

    device: str
    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int
    reserve_bytes: int
    usable_bytes: int
    read_bytes: int = 0  # bytes that are read to generate one token with a full context

    @property
    def total_bytes(self) -> int:
        """All bytes of the model on the device, without the reserve."""
        return self.weights_bytes + self.kv_bytes + self.recurrent_bytes + self.compute_bytes + self.output_bytes

    @property
    def free_bytes(self) -> int:
        """Free bytes after the reserve; negative if the part does not fit."""
        return self.usable_bytes - self.total_bytes - self.reserve_bytes


@dataclass(frozen=True)
class DraftBytes:
    """The parts of a draft, in bytes, on all devices and the host."""

    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int


@dataclass(frozen=True)
class FitRow:
    """One variant on the given devices."""

    variant: str
    kind: str  # "gguf", "int8", or the name of an extension's kind
    file_bytes: int
    bits_per_weight: float
    figures: Mapping[str, FitFigure]  # by part, see PARTS
    shares: tuple[DeviceShare, ...]  # the devices in order, then the host
    total_bytes: int  # on all devices and the host, without the reserve
    fits: bool  # the whole variant is on the GPUs (in RAM, if there is no GPU), and the reserve stays free
    headroom_bytes: int  # free bytes on the fullest device after the reserve; negative if the variant does not fit
    max_context: int | None  # the largest context per sequence with which the variant fits; None if it never fits
    gpu_layers: int  # number of layers on devices, including the output
    n_layers: int  # number of all layers, including the output
    cpu_moe_layers: int  # layers whose experts stay in RAM
    tensor_split: tuple[int, ...]  # number of layers on each device
    arguments: str  # arguments of llama-server and llama-cli for this placement
    decode_bound: float | None  # upper bound of tokens per second by memory bandwidth, with a full context
    placed_by: str  # source of the compute buffers: "rpc", "cpu": llama.cpp; "estimate" | "formula": not llama.cpp
    partial: bool = False  # partly in RAM: the variant does not fit, but runs with `arguments`
    draft: DraftBytes | None = None
    mtp_bytes: int = 0  # weights in the file for multi-token prediction that are not counted
    file_exact: bool = (
        True  # False: the header's part of `file_bytes` is an estimate, because no tokenizer is available
    )
    # The largest context with which the variant runs, with as many layers or experts in RAM as it needs; None if there
    # is none, or if nothing can be moved to RAM.
    max_context_with_ram: int | None = None
    recipe: str | None = None  # the built-in recipe of an int8 variant; None for one in a file, and for other kinds
    weight_types: WeightTypes | None = None  # None for a kind whose weights have no types of llama.cpp
    kv_type: str | None = None  # the type of KV cache that its name says; None: the report's
    projector_type: str | None = None  # the type of a projector file that has to be made; None: it exists, or none is


@dataclass(frozen=True)
class FitReport:
    """The rows of all variants, with the settings that they were computed for."""

    model: str
    context: int
    kv_type: str
    parallel: int
    devices: tuple[Device, ...]
    rows: tuple[FitRow, ...]
    notes: tuple[str, ...]
    bytes_read: int | None  # bytes read over the network; None if the model was not read from there
    draft: str | None = None  # the name of the draft
    architecture: str = ""  # llama.cpp's name
    trained_context: int | None = None  # the longest context of the model; None in reports of earlier versions
    projector: ProjectorFit | None = None  # the vision tower, if it counts
    yarn: Yarn | None = None  # how the model runs a context that is longer than the trained one
    unreadable: Mapping[str, str] = field(default_factory=dict)  # reasons by path: files of repositories without a row
    published: tuple[str, ...] = ()  # if the model is a repository of GGUF files: the variants that it has

    def kv_type_of(self, row: FitRow) -> str:
        """The type of a row's KV cache."""
        return row.kv_type or self.kv_type


class Verdict(StrEnum):
    FITS = "fits"  # the whole variant is on the GPUs, or in RAM if there is no GPU
    PARTLY = "partly"  # partly in RAM: some layers or experts
    DOES_NOT_FIT = "misses"


def verdict(row: FitRow) -> Verdict:
    """Whether the variant of a row fits."""
    return Verdict.FITS if row.fits else Verdict.PARTLY if row.partial else Verdict.DOES_NOT_FIT


def mtp_note(rows: Sequence[FitRow]) -> str | None:
    """What is not counted in these rows; None if everything is."""
    sizes = [row.mtp_bytes for row in rows if row.mtp_bytes]
    if not sizes:
        return None
    amount = size(min(sizes)) if min(sizes) == max(sizes) else f"{size(min(sizes))} to {size(max(sizes))}"
    return (
        f"without speculative decoding: the weights for multi-token prediction ({amount}) and a context that drafts "
        "with them are not counted, because llama.cpp loads them only on request; `sweep fit --draft mtp` counts both"
    )


def to_json(report: FitReport) -> dict[str, Any]:
    """The report as JSON: sizes in bytes, contexts in tokens per sequence, `bandwidth` in bytes per second."""
    return {
        "model": report.model,
        "context": report.context,
        "kv_type": report.kv_type,
        "parallel": report.parallel,
        "devices": [asdict(device) for device in report.devices],
        "rows": [_row(row) for row in report.rows],
        "notes": list(report.notes),
        "bytes_read": report.bytes_read,
        "draft": report.draft,
        "architecture": report.architecture,
        "trained_context": report.trained_context,
        "published": list(report.published),
        "yarn": None if report.yarn is None else asdict(report.yarn),
        "projector": None
        if report.projector is None
        else asdict(report.projector) | {"tokens": report.projector.tokens},
    }


def _row(row: FitRow) -> dict[str, Any]:
    parts = {f"{part}_bytes": row.figures[part].bytes if part in row.figures else None for part in PARTS}
    return {
        "variant": row.variant,
        "kind": row.kind,
        "file_bytes": row.file_bytes,
        "file_exact": row.file_exact,
        "bits_per_weight": row.bits_per_weight,
        **parts,
        "draft": None if row.draft is None else asdict(row.draft),
        "total_bytes": row.total_bytes,
        "mtp_bytes": row.mtp_bytes,
        "note": mtp_note([row]),
        "fits": row.fits,
        "verdict": verdict(row).value,
        "headroom_bytes": row.headroom_bytes,
        "max_context": row.max_context,
        "max_context_with_ram": row.max_context_with_ram,
        "decode_bound_tokens_per_s": row.decode_bound,
        "gpu_layers": row.gpu_layers,
        "layers": row.n_layers,
        "cpu_moe_layers": row.cpu_moe_layers,
        "tensor_split": list(row.tensor_split),
        "arguments": row.arguments,
        "placed_by": row.placed_by,
        "recipe": row.recipe,
        "kv_type": row.kv_type,
        "projector_type": row.projector_type,
        "weight_types": None if row.weight_types is None else asdict(row.weight_types),
        "per_device": [
            {**asdict(share), "total_bytes": share.total_bytes, "free_bytes": share.free_bytes} for share in row.shares
        ],
        "figures": {part: {"source": figure.source, "formula": figure.formula} for part, figure in row.figures.items()},
    }


def from_json(report: dict[str, Any]) -> FitReport:
    """The report that `to_json` wrote, or that of a version that did not know drafts."""
    return FitReport(
        model=report["model"],
        context=report["context"],
        kv_type=report["kv_type"],
        parallel=report["parallel"],
        devices=tuple(Device(**device) for device in report["devices"]),
        rows=tuple(_row_of(row) for row in report["rows"]),
        notes=tuple(report["notes"]),
        bytes_read=report["bytes_read"],
        draft=report.get("draft"),
        architecture=report["architecture"],
        trained_context=report.get("trained_context"),
        projector=_projector_of(report.get("projector")),
        yarn=None if report.get("yarn") is None else Yarn(**report["yarn"]),
        published=tuple(report.get("published", ())),
    )


def _projector_of(projector: dict[str, Any] | None) -> ProjectorFit | None:
    if projector is None:
        return None
    images = tuple(ImageTokens(**image) for image in projector["images"])
    return ProjectorFit(**{key: value for key, value in projector.items() if key != "tokens"} | {"images": images})


def _row_of(row: dict[str, Any]) -> FitRow:
    derived = ("total_bytes", "free_bytes")
    return FitRow(
        figures={part: FitFigure(row[f"{part}_bytes"], **figure) for part, figure in row["figures"].items()},
        shares=tuple(
            DeviceShare(**{name: value for name, value in share.items() if name not in derived})
            for share in row["per_device"]
        ),
        n_layers=row["layers"],
        tensor_split=tuple(row["tensor_split"]),
        decode_bound=row["decode_bound_tokens_per_s"],
        partial=row["verdict"] == Verdict.PARTLY,
        draft=None if row.get("draft") is None else DraftBytes(**row["draft"]),
        mtp_bytes=row.get("mtp_bytes", 0),
        max_context_with_ram=row.get("max_context_with_ram"),
        recipe=row.get("recipe"),
        kv_type=row.get("kv_type"),
        projector_type=row.get("projector_type"),
        weight_types=None if row["weight_types"] is None else WeightTypes(**row["weight_types"]),
        **{name: row[name] for name in _UNCHANGED},
    )


_UNCHANGED = (
    *("variant", "kind", "file_bytes", "file_exact", "bits_per_weight", "total_bytes", "fits", "headroom_bytes"),
    *("max_context", "gpu_layers", "cpu_moe_layers", "arguments", "placed_by"),
)
