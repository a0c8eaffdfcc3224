"""Measuring a sweep's variants from the smallest to the largest, until one is good enough (--search smallest-first).

The one to end with is the first that the advice chooses among the variants so far, the reference among them. The larger
ones would not be chosen before it, so they are left out: the run's stored plan counts them as skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sweep.commands.run_advice import advise_on_run
from sweep.planning.prepare import Sweep
from sweep.record import Record
from sweep.results.plan import Plan, Skipped
from sweep.results.records import records
from sweep.results.store import Store

NOT_NEEDED = "is not needed: no variant is compared with it"


@dataclass(frozen=True)
class SmallestFirst:
    """The search of a sweep whose results are in `store`."""

    sweep: Sweep
    store: Store

    def larger_than_needed(self) -> Mapping[str, Skipped]:
        """The variants that need not be measured, with the reason; empty as long as none is good enough."""
        plan, sizes = self.sweep.plan, self.sweep.search_order
        rows = {row.variant: row for row in records(plan, self.store)}
        base = [rows[name] for name in plan.variants if name not in sizes]
        tried = []
        for name in sizes:
            if name in plan.skipped:
                continue
            tried.append(rows[name])
            if rows[name].status == "pending":
                return {}
            question = plan.question
            if advise_on_run([*base, *tried], plan, self.sweep.workspace, question).variant == name:
                left = list(sizes)[list(sizes).index(name) + 1 :]
                reason = f"is larger than {name}, which is good enough"
                unmeasured = [one for one in left if one not in plan.skipped and rows[one].status == "pending"]
                found = {one: replace(sizes[one], reason=reason) for one in unmeasured}
                return found | {one: Skipped(NOT_NEEDED) for one in self._unneeded(found, rows)}
        return {}

    def _unneeded(self, skipped: Mapping[str, Skipped], rows: Mapping[str, Record]) -> list[str]:
        """The references of methods whose variants are all skipped."""
        variants = self.sweep.variants
        left = {one.baseline for one in variants if one.name not in skipped and one.name != one.baseline}
        own = {one.baseline for one in variants if one.baseline is not None} - left - {self.sweep.plan.reference}
        return [name for name in own if name in rows and rows[name].status == "pending"]


def without(plan: Plan, skipped: Mapping[str, Skipped]) -> Plan:
    """The plan without the cells of these variants."""
    cells = tuple(cell for cell in plan.cells if cell.variant not in skipped)
    return replace(plan, cells=cells, skipped={**plan.skipped, **skipped})
