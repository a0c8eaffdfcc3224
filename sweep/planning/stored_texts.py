"""Plans texts so that what is stored of them is used: results of whole texts, and rounds of texts of which only a part
was measured (see jobs.text_rounds).

- By default, a text whose reference has a whole result is measured in full: the stored results are more precise.
- If everything is to be measured, a text of which rounds are stored goes on from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sweep.jobs.cell import Cell
from sweep.jobs.text import TextJob
from sweep.jobs.text_rounds import TextRoundsJob
from sweep.planning.planner import PlanSpec, make_plan
from sweep.planning.precision import FULL, Precision
from sweep.results.plan import Plan
from sweep.results.store import Store
from sweep.statistics.stopping import ALL_UNITS, StopRule
from sweep.workspace import Workspace


def with_stored_texts(spec: PlanSpec, precision: Precision, workspace: Workspace) -> tuple[PlanSpec, Precision]:
    """The specification that uses what is stored, and how much it measures of the texts."""
    is_open = precision.is_full or precision.is_default
    needs_order = spec.inputs.base_file is not None  # of llama.cpp's base file
    if spec.inputs.text is None or needs_order or not is_open or not workspace.database.exists():
        return spec, precision
    with Store(workspace.database) as store:
        plan = _planned(spec, None)
        whole = _references(plan)
        stored = {label for label, cell in whole.items() if _is_usable(plan, cell, store, workspace)}
        if precision.is_full:
            rounds = _references(_planned(spec, ALL_UNITS))
            begun = {label for label, cell in rounds.items() if _is_begun(cell, workspace)} - stored
            in_full, rule = set(whole) - begun, ALL_UNITS if begun else None
        else:
            in_full, rule = stored, spec.inputs.stop_rule
            if stored == set(whole):
                precision = Precision(FULL, "the default, because the reference is stored in full")
    keys = frozenset(whole[label].key for label in in_full)
    return replace(spec, inputs=replace(spec.inputs, stop_rule=rule, whole_texts=keys)), precision


def _planned(spec: PlanSpec, rule: StopRule | None) -> Plan:
    return make_plan(replace(spec, inputs=replace(spec.inputs, stop_rule=rule)))


def _references(plan: Plan) -> Mapping[str, Cell]:
    """The cells of texts that are compared with no other model, by label."""
    texts = (cell for cell in plan.cells if isinstance(cell.job, TextJob) and cell.job.baseline is None)
    return {cell.label: cell for cell in texts}


def _is_usable(plan: Plan, reference: Cell, store: Store, workspace: Workspace) -> bool:
    """Whether the text of a reference has a result, and its distributions exist if a variant still needs them."""
    if not _has_result(store, reference):
        return False
    own = [cell for cell in plan.cells if cell.name == reference.name]
    variants = [cell for cell in own if plan.reference_of(cell.variant) == reference.variant]
    return reference.job.output_exists(workspace.root) or all(_has_result(store, cell) for cell in variants)


def _is_begun(cell: Cell, workspace: Workspace) -> bool:
    """Whether a text is measured in rounds, and some were measured already."""
    folder = cell.job.positions if isinstance(cell.job, TextRoundsJob) else None
    return folder is not None and folder.under(workspace.root).exists()


def _has_result(store: Store, cell: Cell) -> bool:
    outcome = store.outcomes([cell.key]).get(cell.key)
    return outcome is not None and outcome.status == "ok" and outcome.is_readable(cell.kind)
