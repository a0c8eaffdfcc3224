"""Predicts the time of a sweep, from how long earlier runs took for the same model, and the size of the files it
makes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import mean
from types import MappingProxyType
from typing import Any

from sweep.jobs.cell import Cell
from sweep.jobs.download import DownloadJob
from sweep.jobs.model import ModelSize
from sweep.results.history import UnreadableRun, read_plan
from sweep.results.plan import Plan
from sweep.results.store import Store
from sweep.results.work import group_of

MOST_UNLIKE = 10.0
"""Models whose number of weights differs by more than this factor say nothing about each other's time."""


def predicted_seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Predicted seconds by cell label, for the cells whose time can be predicted.

    The prediction is the mean time of the same measurement over the variants of the same method in earlier runs of this
    model. The time of a task with a limit is predicted per item, and that of a text by its length, so runs with other
    limits count too.
    """
    return _predicted(plan, _seconds_per_unit(plan, store, lambda past: float(past.get("model") == plan.model)))


def rough_seconds(plan: Plan, store: Store) -> dict[str, float]:
    """The same from runs of other models too, where this model has none: their time is taken to be proportional to the
    number of weights. Only models of a similar size count."""
    own = plan.about.get("weights", 0)

    def scale(past: Mapping[str, Any]) -> float:
        others = past.get("about", {}).get("weights", 0)
        factor = own / others if own and others else 0.0
        return factor if 1 / MOST_UNLIKE <= factor <= MOST_UNLIKE else 0.0

    return _predicted(plan, _seconds_per_unit(plan, store, scale)) | predicted_seconds(plan, store)


def _predicted(plan: Plan, known: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    return {cell.label: known[group_of(cell)] * cell.job.work_units for cell in plan.cells if group_of(cell) in known}


def _seconds_per_unit(
    plan: Plan, store: Store, scale: Callable[[Mapping[str, Any]], float]
) -> dict[tuple[str, ...], float]:
    """The mean seconds per unit of work by group of cells, in the stored runs. `scale` gives the factor for the times
    of a stored plan; 0: the run does not count."""
    # group -> key -> seconds per unit; runs share cells
    earlier: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for stored in store.runs():
        factor = scale(stored.plan)
        if not factor:
            continue
        past = read_plan(stored)
        if isinstance(past, UnreadableRun):
            continue
        seconds = store.seconds(cell.key for cell in past.cells)
        for cell in past.cells:
            if cell.key in seconds:
                earlier[group_of(cell)][cell.key] = factor * seconds[cell.key] / cell.job.work_units
    return {group: mean(known.values()) for group, known in earlier.items()}


def total(seconds: dict[str, float], labels: Iterable[str]) -> float | None:
    """The seconds of all these cells together; None if the time of one of them cannot be predicted."""
    each = [seconds.get(label) for label in labels]
    known = [one for one in each if one is not None]
    return sum(known) if len(known) == len(each) else None


def bytes_to_make(
    cells: Iterable[Cell], sizes: Mapping[str, ModelSize], projectors: Mapping[str, int] = MappingProxyType({})
) -> int:
    """Bytes of the models that these cells write: text models, from the predicted sizes of their variants, projector
    files, from those `projectors` by the keys of their cells, and downloads. Two variants can share any of them."""
    models = [cell for cell in cells if cell.job.output_is_model and cell.output is not None]
    jobs = {cell.key: cell.job for cell in models}
    downloads = {key: sum(part.size for part in job.parts) for key, job in jobs.items() if isinstance(job, DownloadJob)}
    files = [cell for cell in models if cell.key not in downloads]
    shared = {cell.key: projectors.get(cell.key, 0) for cell in files if cell.job.has_cell_per_variant}
    made = sum(sizes[cell.variant].file_bytes for cell in files if not cell.job.has_cell_per_variant)
    return made + sum(shared.values()) + sum(downloads.values())
