"""Which cells of a plan are still to be done, by what the store knows and which files are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sweep.jobs.cell import Cell
from sweep.results.store import Outcome, Store


def pending(cells: Sequence[Cell], store: Store, root: Path) -> list[Cell]:
    """The cells to run: those not known to be done, those whose file is gone while one of them needs it, and those that
    are to leave a file with the user which is not there."""
    outcomes = store.outcomes(cell.key for cell in cells)
    done = {key for key, outcome in outcomes.items() if outcome.status == "ok"} | set(adopted(cells, store))
    wanted = {
        cell.key
        for cell in cells
        if not cell.job.auxiliary and (cell.key not in done or not _left(cell, outcomes, root))
    }
    for cell in reversed(cells):  # what is needed stands before what needs it
        needed = any(cell.key in (*other.needs, *other.wants) for other in cells if other.key in wanted)
        if cell.key not in wanted and needed and (cell.key not in done or _gone(cell, root)):
            wanted.add(cell.key)
    return [cell for cell in cells if cell.key in wanted]


def adopted(cells: Sequence[Cell], store: Store) -> dict[str, str]:
    """The cells that are known under another key, with that key."""
    others = {cell.key: cell for cell in cells if cell.alike is not None}
    known = store.outcomes([*others, *(cell.alike for cell in others.values() if cell.alike is not None)])
    done = {key for key, outcome in known.items() if outcome.status == "ok"}
    return {
        key: cell.alike
        for key, cell in others.items()
        if cell.alike is not None and key not in done and cell.alike in done
        if not known[cell.alike].result(cell.kind).generated
    }


def _left(cell: Cell, outcomes: Mapping[str, Outcome], root: Path) -> bool:
    """Whether what a cell that is done was to leave with the user is there."""
    result = outcomes[cell.key].result(cell.kind) if cell.key in outcomes else None
    return result is None or cell.job.left(result, root)


def _gone(cell: Cell, root: Path) -> bool:
    return cell.makes is not None and not cell.makes.under(root).exists()
