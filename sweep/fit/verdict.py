"""The verdict on a variant, in one word that all who show it share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from sweep.fit.device import Device
from sweep.fit.report import Row


class Verdict(StrEnum):
    FITS = "fits"  # all of it on the devices asked for
    PARTLY = "partly"  # with layers or experts in the RAM beside them
    MISSES = "misses"


def verdict(row: Row, devices: Sequence[Device]) -> Verdict:
    """Of a row on `devices`; where they have no GPU, RAM is where all of a model belongs."""
    if not row.fits:
        return Verdict.MISSES
    spilled = row.cpu_moe_layers > 0 or row.gpu_layers < row.n_layers
    return Verdict.PARTLY if spilled and any(device.kind != "cpu" for device in devices) else Verdict.FITS
