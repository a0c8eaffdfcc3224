"""Plans tasks so that whole results that are stored are used where a part of the items would be enough."""

from __future__ import annotations

from dataclasses import replace

from sweep.jobs.task import TaskJob
from sweep.planning.planner import PlanSpec, make_plan
from sweep.results.store import Store
from sweep.workspace import Workspace


def with_stored_tasks(spec: PlanSpec, workspace: Workspace) -> PlanSpec:
    """The specification in which tasks with a stored result on all items are planned with all items."""
    if spec.inputs.task_rule is None or not workspace.database.exists():
        return spec
    in_full = make_plan(replace(spec, inputs=replace(spec.inputs, task_rule=None)))
    keys = [cell.key for cell in in_full.cells if isinstance(cell.job, TaskJob)]
    with Store(workspace.database) as store:
        whole = frozenset(key for key, status in store.statuses(keys).items() if status == "ok")
    return replace(spec, inputs=replace(spec.inputs, whole_tasks=whole))
