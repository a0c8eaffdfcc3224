"""Decides which cells of a plan still have to run, from the store and from the files that exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sweep.jobs.cell import Cell
from sweep.results.store import Outcome, Store


def cells_to_run(cells: Sequence[Cell], store: Store, root: Path) -> list[Cell]:
    """The cells without a stored result that can be read, those whose output is missing but needed by another cell that
    runs, and those whose files for the user are missing or changed."""
    outcomes = store.outcomes(cell.key for cell in cells)
    done = {cell.key for cell in cells if cell.key in outcomes and _is_done(cell, outcomes[cell.key], store)}
    done |= set(equivalent_results(cells, store))
    chosen = {
        cell.key
        for cell in cells
        if not cell.job.auxiliary and (cell.key not in done or not _user_files_intact(cell, outcomes, root))
    }
    for cell in reversed(cells):  # a cell comes before the cells that need it
        needed = any(cell.key in (*other.needs, *other.optional_needs) for other in cells if other.key in chosen)
        if cell.key not in chosen and needed and (cell.key not in done or _output_missing(cell, root)):
            chosen.add(cell.key)
    return [cell for cell in cells if cell.key in chosen]


def equivalent_results(cells: Sequence[Cell], store: Store) -> dict[str, str]:
    """The keys of cells without a result of their own for which an equivalent result is stored, with its key."""
    others = {cell.key: cell for cell in cells if cell.equivalent_key is not None}
    known = store.outcomes([*others, *(cell.equivalent_key for cell in others.values() if cell.equivalent_key)])
    equivalent = {}
    for key, cell in others.items():
        other = known.get(cell.equivalent_key or "")
        if cell.equivalent_key is None or other is None or (key in known and known[key].status == "ok"):
            continue
        if other.status == "ok" and other.is_readable(cell.kind) and not other.read(cell.kind).generated:
            equivalent[key] = cell.equivalent_key
    return equivalent


def _is_done(cell: Cell, outcome: Outcome, store: Store) -> bool:
    """Whether the cell has a result, which can be read with its items."""
    if outcome.status != "ok" or not outcome.is_readable(cell.kind):
        return False
    try:
        store.items(cell.key)
    except ValueError:
        return False
    return True


def _user_files_intact(cell: Cell, outcomes: Mapping[str, Outcome], root: Path) -> bool:
    result = outcomes[cell.key].read(cell.kind) if cell.key in outcomes else None
    return result is None or cell.job.user_files_intact(result, root)


def _output_missing(cell: Cell, root: Path) -> bool:
    return cell.output is not None and not cell.job.output_exists(root)
