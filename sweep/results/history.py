"""Earlier runs of a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from converters.errors import InputError
from sweep.results.plan import Plan
from sweep.results.store import Store
from sweep.workspace import Workspace


@dataclass(frozen=True)
class PastRun:
    """A run with how many of its cells are done and failed; `created` is seconds since 1970."""

    plan: Plan
    created: float
    done: int
    failed: int


def past_runs(workspace: Workspace) -> list[PastRun]:
    """All runs, the latest first."""
    with Store(workspace.database) as store:
        runs = []
        for stored in store.runs():
            try:
                plan = Plan.from_json(stored.plan)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(
                    f"{workspace.database}: run {stored.run} cannot be read; move the store away or use another one"
                ) from error
            states = list(store.statuses(cell.key for cell in plan.cells).values())
            runs.append(PastRun(plan, stored.created, states.count("ok"), states.count("failed")))
        return runs


def find_run(workspace: Workspace, name: str | None) -> Plan:
    """The plan of the run called `name` (or the only one that begins so), the latest without a name.

    Raises InputError where there is none, several, or one whose results another version keeps otherwise.
    """
    plan = _find(workspace, name)
    if not plan.is_current:
        raise InputError(f"{plan.run}: another version measured it and kept its results otherwise; run it again")
    return plan


def _find(workspace: Workspace, name: str | None) -> Plan:
    runs = past_runs(workspace)
    if not runs:
        raise InputError(f"{workspace.root}: no run yet; start one with `sweep run`")
    if name is None:
        return runs[0].plan
    found = [run.plan for run in runs if run.plan.run == name] or [
        run.plan for run in runs if run.plan.run.startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    names = [plan.run for plan in found] or get_close_matches(name, [run.plan.run for run in runs], 3, 0.5)
    if found:
        raise InputError(f"{name}: several runs begin so: {', '.join(names[:5])}")
    known = f"near to it: {', '.join(names)}" if names else f"known are {', '.join(run.plan.run for run in runs[:5])}"
    raise InputError(f"{name}: no such run in {workspace.root}; {known}; another workspace is named with --workspace")


def find_variant(workspace: Workspace, text: str) -> tuple[Plan, str | None]:
    """The plan of RUN, and of RUN:VARIANT the variant too. Raises InputError.

    Names of runs and of variants may themselves hold colons, so the longest run wins.
    """
    cuts = [i for i, letter in enumerate(text) if letter == ":"]
    for cut in (len(text), *reversed(cuts)):
        try:
            plan = find_run(workspace, text[:cut])
        except InputError as error:
            missing = error
            continue
        if cut == len(text):
            return plan, None
        variant = text[cut + 1 :]
        if variant not in plan.variants:
            raise InputError(f"{text}: run {plan.run} has no variant {variant!r}; it has {', '.join(plan.variants)}")
        return plan, variant
    raise missing
