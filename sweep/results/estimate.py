"""Predicts the time of a sweep, from how long earlier runs took for the same model, and the size of the files it
makes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean
from types import MappingProxyType

from sweep.jobs.cell import Cell
from sweep.jobs.model import ModelSize
from sweep.results.history import UnreadableRun, read_plan
from sweep.results.plan import Plan
from sweep.results.store import Store
from sweep.results.work import group_of


def predicted_seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Predicted seconds by cell label, for the cells whose time can be predicted.

    The prediction is the mean time of the same measurement over the variants of the same method in earlier runs of this
    model. The time of a task with a limit is predicted per item, so runs with other limits count too.
    """
    # group -> key -> seconds per unit; runs share cells
    earlier: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for stored in store.runs():
        if stored.plan.get("model") != plan.model:
            continue
        past = read_plan(stored)
        if isinstance(past, UnreadableRun):
            continue
        seconds = store.seconds(cell.key for cell in past.cells)
        for cell in past.cells:
            if cell.key in seconds:
                earlier[group_of(cell)][cell.key] = seconds[cell.key] / cell.job.work_units
    return {
        cell.label: mean(known.values()) * cell.job.work_units
        for cell in plan.cells
        if (known := earlier.get(group_of(cell)))
    }


def total(seconds: dict[str, float], labels: Iterable[str]) -> float | None:
    """The seconds of all these cells together; None if the time of one of them cannot be predicted."""
    each = [seconds.get(label) for label in labels]
    known = [one for one in each if one is not None]
    return sum(known) if len(known) == len(each) else None


def bytes_to_make(
    cells: Iterable[Cell], sizes: Mapping[str, ModelSize], projectors: Mapping[str, int] = MappingProxyType({})
) -> int:
    """Bytes of the models that these cells write: text models, from the predicted sizes of their variants, and
    projector files, from those `projectors` by the keys of their cells. Two variants can share either."""
    files = [cell for cell in cells if cell.job.output_is_model and cell.output is not None]
    shared = {cell.key: projectors.get(cell.key, 0) for cell in files if cell.job.has_cell_per_variant}
    models = (cell for cell in files if not cell.job.has_cell_per_variant)
    return sum(sizes[cell.variant].file_bytes for cell in models) + sum(shared.values())
