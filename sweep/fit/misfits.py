"""Which variants of a sweep would not fit the GPUs that they are meant for."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.fit.device import Device
from sweep.fit.fitting import fit
from sweep.fit.misfit import Misfit
from sweep.fit.report import FitOptions, Row
from sweep.report.text import size
from sweep.variant import Variant


def misfits(
    model: str, variants: Sequence[Variant], devices: Sequence[Device], options: FitOptions
) -> dict[str, Misfit]:
    """By name, those of `variants` that `devices` do not hold; of files that are not here nothing is known."""
    quants = [variant.quant for variant in variants if variant.quant is not None]
    rows = {row.variant: row for row in fit(model, quants, devices, options).rows} if quants else {}
    found = {}
    for variant in variants:
        row = rows.get(variant.quant or "")
        if variant.file is not None:
            row = fit(str(variant.file), [], devices, options).rows[0]
        if row is not None and not row.fits:
            found[variant.name] = _misfit(row, devices)
    return found


def _misfit(row: Row, devices: Sequence[Device]) -> Misfit:
    names = ", ".join(device.name for device in devices)
    reason = f"needs {size(-row.headroom_bytes)} more than {names} {'have' if len(devices) > 1 else 'has'}"
    return Misfit(f"{reason} (total {size(row.total_bytes)})", row.file_bytes, row.bits_per_weight, row.total_bytes)
