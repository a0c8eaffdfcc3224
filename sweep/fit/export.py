"""A report of `sweep fit` as JSON. Field names are a contract with scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sweep.fit.device import Device
from sweep.fit.report import PARTS, DeviceShare, Figure, FitReport, Row
from sweep.fit.verdict import Verdict, verdict


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


def _row(row: Row) -> dict[str, Any]:
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


def _row_of(row: dict[str, Any]) -> Row:
    derived = ("total_bytes", "free_bytes")
    return Row(
        figures={part: Figure(row[f"{part}_bytes"], **told) for part, told in row["figures"].items()},
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
