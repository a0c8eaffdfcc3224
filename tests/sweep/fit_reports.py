"""Fit reports with given figures, for tests of the output and of the choice of a variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sweep.fit.fit_report import DeviceShare, FitFigure, FitReport, FitRow
from sweep.fit.hardware import Device, parse_devices
from sweep.fit.weight_types import WeightTypes

MIB = 1 << 20
GIB = 1 << 30


PURE_TYPES = {"Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K", "Q5_K_M": "Q5_K", "Q3_K_M": "Q3_K"}
"""The tensor type of a quant's file, for a file whose weights all have one type; other quants are named like theirs."""


def row(variant: str, gibibytes: float, bits: float, devices: Sequence[Device], **changes: Any) -> FitRow:
    """A variant whose weights are spread evenly over `devices`, with 300 MiB of cache and buffers on each.

    It has the 8 billion weights, all of one type, of a dense model.
    """
    weights = int(gibibytes * GIB)
    shares = tuple(
        DeviceShare(d.name, weights // len(devices), 200 * MIB, 0, 100 * MIB, 0, d.reserve_bytes, d.usable_bytes)
        for d in devices
    )
    host = DeviceShare("RAM", 400 * MIB, 0, 0, 50 * MIB, MIB, GIB, 20 * GIB)
    room = min(share.free_bytes for share in shares)
    figures = {
        "weights": FitFigure(weights, "llama.cpp dry run", f"the tensors of {variant} by their types"),
        "kv": FitFigure(200 * MIB * len(devices), "llama.cpp no_alloc load", "layers x heads x cells"),
        "recurrent": FitFigure(0, "llama.cpp no_alloc load", "no such layers"),
        "compute": FitFigure(150 * MIB, "llama.cpp no_alloc load", "the largest graph"),
        "output": FitFigure(MIB, "llama.cpp no_alloc load", "vocabulary x 4"),
        "reserve": FitFigure(sum(d.reserve_bytes for d in devices), "estimate", "driver + margin"),
    }
    made = FitRow(
        variant=variant,
        kind="gguf",
        file_bytes=weights + 5 * MIB,
        bits_per_weight=bits,
        figures=figures,
        shares=(*shares, host),
        total_bytes=sum(share.total_bytes for share in (*shares, host)),
        fits=room >= 0,
        headroom_bytes=room,
        max_context=16384 if room >= 0 else None,
        gpu_layers=37,
        n_layers=37,
        cpu_moe_layers=0,
        tensor_split=(37,),
        arguments="-ngl 37 -c 8192",
        decode_bound=100.0,
        placed_by="estimate",
        weight_types=WeightTypes({PURE_TYPES.get(variant, variant): 1.0}, 8 * 10**9, 8 * 10**9),
    )
    return replace(made, **changes)


def report(rows: Sequence[FitRow], devices: Sequence[Device], **changes: Any) -> FitReport:
    made = FitReport("Qwen3-8B", 8192, "f16", 1, tuple(devices), tuple(rows), (), None)
    return replace(made, **changes)


def three(*gpus: str) -> FitReport:
    """A report of three variants: one fits (4 GiB per device), one runs partly in RAM, one does not fit."""
    stated = parse_devices(gpus)
    devices = [device for device in stated if device.kind != "cpu"]
    return report(
        [
            row("Q4_K_M", 4.0, 4.9, devices),
            row("Q8_0", 8.0, 8.5, devices, gpu_layers=20, fits=False, partial=True, arguments="-ngl 20"),
            row("BF16", 400.0, 16.0, devices),
        ],
        stated,
    )
