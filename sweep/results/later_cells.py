"""Cells that a run may add to those of its plan: a second measurement of an unstable speed, and further rounds of a
text."""

from __future__ import annotations

from sweep.jobs.base import Result
from sweep.jobs.cell import Cell
from sweep.results.plan import Plan
from sweep.results.records import records
from sweep.results.speed_again import cells_to_measure_again, second_cells
from sweep.results.store import Store
from sweep.results.text_rounds import next_rounds, possible_rounds, rounds_for_order


def possible_cells(plan: Plan) -> list[Cell]:
    """All cells that may be added."""
    return [*second_cells(plan).values(), *possible_rounds(plan)]


def cells_after(plan: Plan, store: Store, cell: Cell, result: Result) -> list[Cell]:
    """The cells that follow a result at once."""
    return next_rounds(plan, store, cell, result)


def cells_at_the_end(plan: Plan, store: Store) -> list[Cell]:
    """The cells that follow when all others have ended."""
    return [*rounds_for_order(plan, store), *cells_to_measure_again(plan, records(plan, store))]
