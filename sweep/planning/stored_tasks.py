"""Plans tasks by a rule, so that whole results that are stored are used where a part of the items would be enough."""

from __future__ import annotations

from dataclasses import replace

from sweep.jobs.task import TaskJob
from sweep.planning.planner import PlanSpec, make_plan
from sweep.results.store import Store
from sweep.statistics.task_stopping import TaskStopRule
from sweep.workspace import Workspace


def with_task_rule(spec: PlanSpec, rule: TaskStopRule, workspace: Workspace) -> PlanSpec:
    """The specification, which has no rule yet, with this one. Tasks with a stored result on all items are planned with
    all items."""
    by_rule = replace(spec, inputs=replace(spec.inputs, task_rule=rule))
    if not workspace.database.exists():
        return by_rule
    keys = [cell.key for cell in make_plan(spec).cells if isinstance(cell.job, TaskJob)]
    with Store(workspace.database) as store:
        whole = frozenset(key for key, status in store.statuses(keys).items() if status == "ok")
    return replace(by_rule, inputs=replace(by_rule.inputs, whole_tasks=whole))
