"""What a sweep takes: time, by what the same measurements of the same model took before, and room for its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean

from sweep.jobs.cell import Cell
from sweep.jobs.model import ModelSize
from sweep.methods.registry import method
from sweep.results.plan import Plan
from sweep.results.store import Store

_Like = tuple[str, str, str, str]


def predicted_seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Seconds by cell label, for the cells whose time can be predicted.

    A cell is taken to last as long as its like lasted on average over the variants that earlier runs of this model
    measured on the same engine, int8 and float apart; a task with a limit, as its like with another limit did for each
    item.
    """
    lasted: dict[_Like, dict[str, float]] = defaultdict(dict)  # by key, since runs share cells
    for stored in store.runs():
        if stored.plan.get("model") != plan.model:
            continue
        earlier = Plan.from_json(stored.plan)
        seconds = store.seconds(cell.key for cell in earlier.cells)
        for cell in earlier.cells:
            if cell.key in seconds:
                lasted[_like(cell)][cell.key] = seconds[cell.key] / cell.job.units
    return {
        cell.label: mean(known.values()) * cell.job.units for cell in plan.cells if (known := lasted.get(_like(cell)))
    }


def total(seconds: dict[str, float], labels: Iterable[str]) -> float | None:
    """Of all these cells; None where the time of one of them cannot be predicted."""
    found = [seconds.get(label) for label in labels]
    known = [one for one in found if one is not None]
    return sum(known) if len(known) == len(found) else None


def bytes_to_make(cells: Iterable[Cell], sizes: Mapping[str, ModelSize]) -> int:
    """Of the models that these cells write, by the predicted sizes of their variants; two variants can share one."""
    return sum(sizes[cell.variant].file_bytes for cell in cells if cell.job.makes_model)


def _like(cell: Cell) -> _Like:
    """What cells have in common that take alike long for each unit of their work."""
    return cell.kind, method(cell.variant).kind, cell.name, cell.job.like
