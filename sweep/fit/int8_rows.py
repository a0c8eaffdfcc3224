"""Rows of the int8 recipes of the torch path, which runs on one device."""

from __future__ import annotations

from converters.source import Source
from sweep.fit.formulas import ContextFormulas
from sweep.fit.int8 import Int8Model, int8_figures
from sweep.fit.layers import Shape
from sweep.fit.report import DeviceShare, Figure, FitOptions, Row
from sweep.fit.rows import HOST, MARGIN, Machine


def int8_row(name: str, source: Source, shape: Shape, machine: Machine, options: FitOptions) -> Row:
    """All of it on the machine's first device, or in RAM where there is none."""
    formulas = ContextFormulas.of(source.structure)
    model = Int8Model.of(shape, source.tensors)
    figures = int8_figures(model, formulas, shape, options)
    device = machine.gpus[0] if machine.gpus else machine.host
    sizes = {f"{part}_bytes": figure.bytes for part, figure in figures.items()}
    total = sum(sizes.values())
    usable, reserve = (device.usable_bytes, device.reserve_bytes) if device is not None else (total, 0)
    share = DeviceShare(device.name if device else HOST, **sizes, reserve_bytes=reserve, usable_bytes=usable)
    fixed = total - figures["kv"].bytes
    token = figures["kv"].bytes // options.context
    longest = min(shape.train_context, (usable - reserve - fixed) // token) if token else shape.train_context
    read = model.active + figures["kv"].bytes // options.parallel + 2 * figures["recurrent"].bytes // options.parallel
    bandwidth = device.bandwidth if device is not None else None
    return Row(
        variant=name,
        kind="int8",
        file_bytes=figures["weights"].bytes,
        bits_per_weight=8 * figures["weights"].bytes / model.weights,
        figures={
            **figures,
            "projector": Figure(0, "formula", "not asked for"),
            "reserve": Figure(reserve, MARGIN, "kept free: the driver's own context and a margin"),
        },
        shares=(share,),
        total_bytes=total,
        fits=share.free_bytes >= 0,
        headroom_bytes=share.free_bytes,
        max_context=longest if longest > 0 else None,
        gpu_layers=shape.layers + 1 if machine.gpus else 0,
        n_layers=shape.layers + 1,
        cpu_moe_layers=0,
        tensor_split=(),
        arguments="",
        decode_bound=bandwidth / read if bandwidth is not None else None,
        placed_by="formula",
        file_exact=False,
    )
