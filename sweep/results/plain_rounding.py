"""Recognizes quantized variants that lose more than plain rounding at the same bits.

A method that costs calibration and loses more than rounding each weight to the nearest value should not be used there:
AWQ, for example, does so on some models with norms of queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sweep.methods.registry import method
from sweep.record import Record
from sweep.statistics import compare_differences


def with_plain_rounding(records: Sequence[Record]) -> list[Record]:
    """The records with `worse_than_rounding` filled in."""
    named = {record.variant: record for record in records}
    return [replace(record, worse_than_rounding=_better_rounding(record, named)) for record in records]


def _better_rounding(record: Record, named: dict[str, Record]) -> str | None:
    """The variant that rounds plainly and has a lower KL divergence, if the 95 % interval of the difference, paired by
    window, excludes 0."""
    plain = method(record.variant).plain_rounding(record.variant, tuple(named))
    if plain is None or plain == record.variant:
        return None
    own, other = record.samples.get("kld"), named[plain].samples.get("kld")
    if own is None or other is None or own.units != other.units:
        return None
    shared = min(own.values.size, other.values.size)
    differences = own.values[:shared] - other.values[:shared]
    if not shared or not np.isfinite(differences).all():
        return None
    return plain if compare_differences(differences).low > 0 else None
