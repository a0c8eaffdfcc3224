"""What `sweep fit` answers: for each variant its memory, part by part, where it goes, and whether that fits.

`to_json` and `from_json` are the report at the process boundary; field names there are a contract with scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sweep.fit.hardware import Device

DRY_RUN, LOAD, FORMULA, ESTIMATE, MARGIN = (
    "llama.cpp dry run",
    "llama.cpp no_alloc load",
    "formula",
    "estimate",
    "margin",
)
"""Who says so of a figure."""
HOST = "RAM"
# The parts of a variant's memory, in the order in which they are told.
PARTS = ("weights", "kv", "recurrent", "compute", "output", "projector", "reserve")


@dataclass(frozen=True)
class FitOptions:
    """How the model is to be run: what llama-server's options of the same names say."""

    context: int = 0  # tokens a sequence; 0: DEFAULT_CONTEXT, or all that the model was made for where that is less
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    parallel: int = 1  # sequences at once
    ubatch: int = 512
    batch: int = 2048
    flash_attention: bool | None = None  # None: llama.cpp decides
    projector: bool = False  # count the vision projector too
    offload: str = "auto"  # "auto": partial offload where all does not fit; "none": all on the devices or not at all


@dataclass(frozen=True)
class FitFigure:
    """A number of bytes, who says so, and by what formula it can be checked."""

    bytes: int
    source: str  # "llama.cpp dry run" | "llama.cpp no_alloc load" | "formula" | "estimate"
    formula: str


@dataclass(frozen=True)
class DeviceShare:
    """What one device, or the host, holds of a variant. Bytes."""

    device: str
    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int
    reserve_bytes: int
    usable_bytes: int

    @property
    def total_bytes(self) -> int:
        """All that the model takes there; the reserve is apart."""
        return self.weights_bytes + self.kv_bytes + self.recurrent_bytes + self.compute_bytes + self.output_bytes

    @property
    def free_bytes(self) -> int:
        """What is left beside the reserve; below 0 by how much it does not fit."""
        return self.usable_bytes - self.total_bytes - self.reserve_bytes


@dataclass(frozen=True)
class FitRow:
    """One variant on the devices asked for."""

    variant: str
    kind: str  # "gguf", "int8", or what an extension calls it
    file_bytes: int
    bits_per_weight: float
    figures: Mapping[str, FitFigure]  # by PARTS
    shares: tuple[DeviceShare, ...]  # the devices in order, then the host
    total_bytes: int  # on all devices and the host, without the reserve
    fits: bool  # all of it on the devices; on the host where no device is a GPU
    headroom_bytes: int  # of the tightest device; below 0 by how much it does not fit wholly
    max_context: int | None  # the largest context of a sequence with which it fits wholly; None: none does
    gpu_layers: int  # layers on devices, the output counted as one
    n_layers: int  # layers there are, the output counted as one
    cpu_moe_layers: int  # layers whose experts are kept in RAM
    tensor_split: tuple[int, ...]  # layers on each device
    arguments: str  # of llama-server and llama-cli, that place it so
    decode_bound: float | None  # tokens a second that bandwidth allows at most, its context full
    placed_by: str  # "rpc": llama.cpp's figures for such devices; "cpu": for RAM; "estimate" | "formula": not its own
    partial: bool = False  # it does not fit wholly, but runs as `arguments` say, with a part in RAM
    file_exact: bool = True  # False: the header's share of `file_bytes` is estimated, no tokenizer being at hand


@dataclass(frozen=True)
class FitReport:
    """All rows of one question."""

    model: str
    context: int
    kv_type: str
    parallel: int
    devices: tuple[Device, ...]
    rows: tuple[FitRow, ...]
    notes: tuple[str, ...]
    bytes_read: int | None  # read over the network; None: nothing was


class Verdict(StrEnum):
    FITS = "fits"  # all of it on the devices asked for
    PARTLY = "partly"  # with layers or experts in the RAM beside them
    MISSES = "misses"


def verdict(row: FitRow) -> Verdict:
    """Of a row; on a machine without a GPU, RAM is where all of a model belongs."""
    return Verdict.FITS if row.fits else Verdict.PARTLY if row.partial else Verdict.MISSES


def to_json(report: FitReport) -> dict[str, Any]:
    """All of it; sizes in bytes, contexts in tokens a sequence, `bandwidth` in bytes a second."""
    return {
        "model": report.model,
        "context": report.context,
        "kv_type": report.kv_type,
        "parallel": report.parallel,
        "devices": [asdict(device) for device in report.devices],
        "rows": [_row(row) for row in report.rows],
        "notes": list(report.notes),
        "bytes_read": report.bytes_read,
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
        "total_bytes": row.total_bytes,
        "fits": row.fits,
        "verdict": verdict(row).value,
        "headroom_bytes": row.headroom_bytes,
        "max_context": row.max_context,
        "decode_bound_tokens_per_s": row.decode_bound,
        "gpu_layers": row.gpu_layers,
        "layers": row.n_layers,
        "cpu_moe_layers": row.cpu_moe_layers,
        "tensor_split": list(row.tensor_split),
        "arguments": row.arguments,
        "placed_by": row.placed_by,
        "per_device": [
            {**asdict(share), "total_bytes": share.total_bytes, "free_bytes": share.free_bytes} for share in row.shares
        ],
        "figures": {part: {"source": figure.source, "formula": figure.formula} for part, figure in row.figures.items()},
    }


def from_json(report: dict[str, Any]) -> FitReport:
    """What `to_json` wrote."""
    return FitReport(
        model=report["model"],
        context=report["context"],
        kv_type=report["kv_type"],
        parallel=report["parallel"],
        devices=tuple(Device(**device) for device in report["devices"]),
        rows=tuple(_row_of(row) for row in report["rows"]),
        notes=tuple(report["notes"]),
        bytes_read=report["bytes_read"],
    )


def _row_of(row: dict[str, Any]) -> FitRow:
    derived = ("total_bytes", "free_bytes")
    return FitRow(
        figures={part: FitFigure(row[f"{part}_bytes"], **told) for part, told in row["figures"].items()},
        shares=tuple(
            DeviceShare(**{name: value for name, value in share.items() if name not in derived})
            for share in row["per_device"]
        ),
        n_layers=row["layers"],
        tensor_split=tuple(row["tensor_split"]),
        decode_bound=row["decode_bound_tokens_per_s"],
        partial=row["verdict"] == Verdict.PARTLY,
        **{name: row[name] for name in _ALIKE},
    )


_ALIKE = (
    *("variant", "kind", "file_bytes", "file_exact", "bits_per_weight", "total_bytes", "fits", "headroom_bytes"),
    *("max_context", "gpu_layers", "cpu_moe_layers", "arguments", "placed_by"),
)
