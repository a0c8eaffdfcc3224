"""What a sweep takes: time, by what the same measurements of the same model took before, and room for its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any

from sweep.planning.cells import Cell
from sweep.planning.plan import Plan
from sweep.planning.variant import kind_of
from sweep.results.store import Store

_Kind = tuple[str, str, str, str]


def foreseen_seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Seconds by cell label, for the cells that can be foreseen.

    A cell is taken to last as long as its like lasted on average over the variants that earlier runs of this model
    measured on the same engine, int8 and float apart; a task with a limit, as its like with another limit did for each
    item.
    """
    lasted: dict[_Kind, dict[str, float]] = defaultdict(dict)  # by key, since runs share cells
    for stored in store.runs():
        if stored.plan.get("model") != plan.model:
            continue
        earlier = Plan.from_json(stored.plan)
        seconds = store.seconds(cell.key for cell in earlier.cells)
        for cell in earlier.cells:
            if cell.key in seconds:
                lasted[_kind(cell)][cell.key] = seconds[cell.key] / _units(cell)
    return {
        cell.label: mean(known.values()) * _units(cell) for cell in plan.cells if (known := lasted.get(_kind(cell)))
    }


def total(seconds: dict[str, float], labels: Iterable[str]) -> float | None:
    """Of all these cells; None where one of them cannot be foreseen."""
    found = [seconds.get(label) for label in labels]
    known = [one for one in found if one is not None]
    return sum(known) if len(known) == len(found) else None


def bytes_to_make(cells: Iterable[Cell], sizes: Mapping[str, Mapping[str, float]]) -> int:
    """Of the models that these cells write, by their `sizes` (see planning.sizes); two variants can share one."""
    made = (cell for cell in cells if cell.kind in ("export", "quantize"))
    return sum(int(sizes[cell.params.get("quant", cell.variant)]["file_bytes"]) for cell in made)


def _kind(cell: Cell) -> _Kind:
    """What cells have in common that take alike long: what they do, of which kind of variant, with which text or
    whether to the task's end."""
    how = str(cell.params.get("text") or ("some" if _limit(cell) else "all"))
    return cell.kind, kind_of(cell.variant), cell.name, how


def _units(cell: Cell) -> int:
    return _limit(cell) or 1


def _limit(cell: Cell) -> int | None:
    task: dict[str, Any] = cell.params.get("task") or {}
    limit = (task.get("options") or {}).get("limit")
    return None if limit is None else int(limit)
