"""The later rounds of texts that are measured until enough is known (see jobs.text_rounds): which ones follow from the
results so far, and which one has the figures.

Later rounds are cells that no plan has. They follow from stored results alone, so a run that was interrupted goes on
with the same ones. There are two reasons for them: a variant's own rule is not met yet, or it is not known which of two
variants that follow each other in the order of their divergence has the lower one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from presets.advice import advice_rules
from sweep.endings import Ending
from sweep.jobs.base import Result
from sweep.jobs.cell import Cell
from sweep.jobs.text_rounds import TextRoundsJob, TextRoundsResult, linear_perplexities
from sweep.results.plan import Plan
from sweep.results.store import Store
from sweep.statistics import ALPHA
from sweep.statistics.stopping import (
    FIRST_LOOK,
    half_width,
    look_at_least,
    order_is_known,
    round_with,
    side,
)

EQUAL = 0.05
"""Two divergences count as equal if they differ by at most this share of the larger one."""

MOST_WINDOWS = 1 << 20
"""No text has more."""


@dataclass(frozen=True)
class _Measured:
    """A text of a variant: its first cell, and the cell and the result with the most windows."""

    first: Cell
    cell: Cell
    result: TextRoundsResult

    @property
    def kld(self) -> NDArray[np.float64]:
        """The KL divergence of each window, in nats per token; empty for a reference."""
        divergence = self.result.divergence
        return np.array(() if divergence is None else divergence.window_kld)


def next_rounds(plan: Plan, store: Store, cell: Cell, result: Result) -> list[Cell]:
    """The cells that follow the result of a cell: the same text on more windows, if its rule is not met."""
    if not isinstance(result, TextRoundsResult) or result.next_look is None:
        return []
    first = _first_cell(plan, cell)
    return [] if first is None else _with_reference(plan, store, _Measured(first, cell, result), result.next_look)


def rounds_for_order(plan: Plan, store: Store) -> list[Cell]:
    """The cells for variants that follow each other in the order of their divergence, where this order is not known.
    Differences that nobody notices are not pursued."""
    by_text: dict[tuple[str, str], list[_Measured]] = defaultdict(list)
    for one in _measured(plan, store):
        if one.kld.size and one.result.next_look is None:
            by_text[plan.reference_of(one.first.variant), one.first.name].append(one)
    more: dict[str, tuple[_Measured, int]] = {}
    for found in by_text.values():
        for pair in pairwise(sorted(found, key=lambda one: float(one.kld.mean()))):
            windows = min(one.result.windows for one in pair)
            if _is_order_known(pair, windows):
                continue
            goal = look_at_least(windows + 1, pair[0].result.of_windows)  # the same windows of both
            more |= {one.first.label: (one, goal) for one in pair if one.result.windows < goal}
    return [cell for one, goal in more.values() for cell in _with_reference(plan, store, one, goal, for_order=True)]


def why_stopped(job: TextRoundsJob, result: TextRoundsResult) -> str:
    """Why no more windows were measured, in words; empty if more have to be."""
    rule, is_compared = job.rule, job.baseline is not None
    if result.next_look is not None:
        return ""
    if rule is None:
        return "as many as a variant needed"
    total = result.of_windows
    if result.divergence is not None:
        values = np.array(result.divergence.window_kld)
    elif is_compared:
        return "no divergence"
    else:
        values = linear_perplexities(np.array(result.perplexity.window_nll))
    sides = [(side(values, bound, rule.alpha(total)), bound) for bound in rule.bounds]
    known = [f"{'under' if which < 0 else 'above'} {bound:g} nats" for which, bound in sides if which]
    if result.windows >= total:
        return ", ".join(["all windows", *known])
    return ", ".join([*known, *([] if rule.precision is None else [f"± {100 * half_width(values, ALPHA):.1f} %"])])


def _is_order_known(pair: tuple[_Measured, _Measured], windows: int) -> bool:
    total = pair[0].result.of_windows
    rule = _job(pair[0].cell).rule
    if windows >= total or pair[1].result.of_windows != total or rule is None:
        return True
    a, b = (one.kld[:windows] for one in pair)
    return order_is_known(a, b, rule.alpha(total), rule.precision or EQUAL, advice_rules().unnoticeable)


def possible_rounds(plan: Plan) -> list[Cell]:
    """All cells of later rounds that a run may add."""
    return [cell for first in _first_cells(plan) for cell in _later(plan, first, MOST_WINDOWS)]


def with_last_rounds(plan: Plan, store: Store) -> Plan:
    """The plan in which the cell of every text that was measured in rounds is the one with the most windows. Later
    rounds that have no whole result are additional cells."""
    last = {one.first.label: replace(one.cell, name=one.first.name) for one in _measured(plan, store)}
    cells = [last.get(cell.label, cell) for cell in plan.cells]
    failed = [cell for first in _first_cells(plan) for cell in _unfinished(plan, store, first)]
    return plan if not last else replace(plan, cells=(*cells, *failed))


def _measured(plan: Plan, store: Store) -> list[_Measured]:
    """The texts with a result."""
    found = []
    for first in _first_cells(plan):
        results = [(cell, result) for cell in _rounds(plan, store, first) if (result := _result(plan, store, cell))]
        if results:
            cell, result = max(results, key=lambda pair: pair[1].windows)
            found.append(_Measured(first, cell, result))
    return found


def _rounds(plan: Plan, store: Store, first: Cell) -> list[Cell]:
    """The first cell of a text, and all cells that can follow."""
    result = _result(plan, store, first)
    return [first] if result is None else [first, *_later(plan, first, result.of_windows)]


def _later(plan: Plan, first: Cell, windows: int) -> list[Cell]:
    """The cells that can follow the first one, in a text of so many windows."""
    rounds = range(1, round_with(windows) + 1)
    return [_at(plan, first, index, for_order=for_order) for index in rounds for for_order in (False, True)]


def _unfinished(plan: Plan, store: Store, first: Cell) -> list[Cell]:
    """Later rounds that failed, or were cancelled or skipped."""
    later = {cell.key: cell for cell in _rounds(plan, store, first)[1:]}
    return [later[key] for key, outcome in store.outcomes(later).items() if outcome.status in tuple(Ending)]


def _result(plan: Plan, store: Store, cell: Cell) -> TextRoundsResult | None:
    outcome = store.outcomes([cell.key]).get(cell.key)
    if outcome is None or outcome.status != "ok" or not outcome.is_readable(cell.kind):
        return None
    result: TextRoundsResult = outcome.result(cell, plan.run)
    return result


def _job(cell: Cell) -> TextRoundsJob:
    assert isinstance(cell.job, TextRoundsJob)
    return cell.job


def _first_cells(plan: Plan) -> Sequence[Cell]:
    return [cell for cell in plan.cells if isinstance(cell.job, TextRoundsJob)]


def _first_cell(plan: Plan, later: Cell) -> Cell | None:
    own = (cell for cell in _first_cells(plan) if cell.variant == later.variant)
    return next((cell for cell in own if _job(cell).text == _job(later).text), None)


def _at(plan: Plan, first: Cell, index: int, *, for_order: bool = False) -> Cell:
    """The cell that measures a text up to the round with this number; `for_order`: at least up to it."""
    stop = FIRST_LOOK << index
    job = replace(_job(first), stop=stop, at_least=stop if for_order else 0)
    name = f"{first.name}, round {index + 1}{' for the order' if for_order else ''}"
    return replace(first, key=job.key(plan.resources), name=name, job=job)


def _with_reference(plan: Plan, store: Store, one: _Measured, windows: int, *, for_order: bool = False) -> list[Cell]:
    """The cell of a variant, after that of its reference with so many windows. That one runs again if its distributions
    are gone."""
    index, last = round_with(windows), round_with(one.result.of_windows)
    own = _at(plan, one.first, index, for_order=for_order)
    name = plan.reference_of(one.first.variant)
    if name == one.first.variant:
        return [own]
    base = next((cell for cell in _first_cells(plan) if (cell.variant, cell.name) == (name, one.first.name)), None)
    if base is None:
        return [own]
    enough = [_at(plan, base, index) for index in range(index, last + 1)]
    measured = next((cell for cell in enough if _result(plan, store, cell) is not None), enough[0])
    return [measured, replace(own, optional_needs=(measured.key,))]
