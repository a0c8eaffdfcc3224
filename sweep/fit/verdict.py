"""The verdict on a variant, in one word that all who show it share."""

from __future__ import annotations

from enum import StrEnum

from sweep.fit.report import Row


class Verdict(StrEnum):
    FITS = "fits"  # all of it on the devices asked for
    PARTLY = "partly"  # with layers or experts in the RAM beside them
    MISSES = "misses"


def verdict(row: Row) -> Verdict:
    """Of a row; on a machine without a GPU, RAM is where all of a model belongs."""
    return Verdict.FITS if row.fits else Verdict.PARTLY if row.partial else Verdict.MISSES
