"""The second measurement of an unstable speed, at the end of the run.

It is a cell that no plan has, with a key of its own, so the first result stays as it is. Records have the steadier of
both speeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sweep import defaults
from sweep.jobs.base import content_hash
from sweep.jobs.cell import Cell
from sweep.jobs.speed import SpeedJob
from sweep.record import Record
from sweep.results.plan import Plan


def second_cells(plan: Plan) -> dict[str, Cell]:
    """By variant, the cell that measures its speed again."""
    return {
        cell.variant: replace(cell, key=content_hash({"again": cell.key}), name=f"{cell.name} again")
        for cell in plan.cells
        if isinstance(cell.job, SpeedJob)
    }


def cells_to_measure_again(plan: Plan, records: Sequence[Record]) -> list[Cell]:
    """The cells that measure the unstable speeds of these records again, if they were not measured often enough."""
    again = second_cells(plan)
    return [
        again[record.variant]
        for record in records
        if record.speed is not None
        and record.speed.unstable
        and record.speed.measurements < defaults.SPEED_MEASUREMENTS
    ]
