"""The runs of a workspace: lists them and finds them by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from converters.errors import InputError
from sweep.endings import Ending
from sweep.extensions import VARIABLE as EXTENSIONS
from sweep.jobs.cell import Cell
from sweep.jobs.registry import UnknownJobKind
from sweep.results.plan import Plan
from sweep.results.store import Store, StoredRun
from sweep.workspace import Workspace

_DAMAGED = "damaged"


@dataclass(frozen=True)
class PastRun:
    """A run with the numbers of its cells by how they ended. `created` is seconds since 1970.

    `damaged` cells have a stored result that cannot be read. They are not done: they run again when the run is started.
    """

    plan: Plan
    created: float
    done: int
    failed: int
    cancelled: int = 0
    skipped: int = 0
    damaged: int = 0

    @property
    def others(self) -> str:
        """The cells that are neither done nor failed nor waiting, in words: "1 cancelled, 8 skipped"; may be empty."""
        counts = {"cancelled": self.cancelled, "skipped": self.skipped, "damaged": self.damaged}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


@dataclass(frozen=True)
class UnreadableRun:
    """A run whose plan cannot be read, with the reason and the remedy in words."""

    run: str
    reason: str

    @property
    def message(self) -> str:
        return f"run {self.run} cannot be read: {self.reason}"


def past_runs(workspace: Workspace) -> list[PastRun]:
    """All runs that can be read, the latest first."""
    return [run for run in all_runs(workspace) if isinstance(run, PastRun)]


def all_runs(workspace: Workspace) -> list[PastRun | UnreadableRun]:
    """All runs, the latest first."""
    states: dict[str, str] = {}
    with Store(workspace.database) as store:
        return [_past_run(stored, store, states) for stored in store.runs()]


def read_plan(stored: StoredRun) -> Plan | UnreadableRun:
    """The plan of a stored run, or why it cannot be read."""
    try:
        if not isinstance(stored.created, float):
            raise ValueError(stored.created)
        return Plan.from_json(stored.plan)
    except UnknownJobKind as error:
        reason = f"there is no kind of job '{error.kind}'; name the extension that adds it in {EXTENSIONS}"
    except (KeyError, TypeError, ValueError, AttributeError):
        reason = "its plan is damaged, or another version wrote it; run the sweep again in another workspace"
    return UnreadableRun(stored.run, reason)


def _past_run(stored: StoredRun, store: Store, known: dict[str, str]) -> PastRun | UnreadableRun:
    """A stored run. `known` are the states of cells by key; those of this run are added, because runs share cells."""
    plan = read_plan(stored)
    if isinstance(plan, UnreadableRun):
        return plan
    known |= _states([cell for cell in plan.cells if cell.key not in known], store)
    states = Counter(known[cell.key] for cell in plan.cells)
    return PastRun(
        plan,
        stored.created,
        done=states["ok"],
        failed=states[Ending.FAILED],
        cancelled=states[Ending.CANCELLED],
        skipped=states[Ending.SKIPPED],
        damaged=states[_DAMAGED],
    )


def _states(cells: Sequence[Cell], store: Store) -> dict[str, str]:
    """By key: the status of a stored cell, _DAMAGED instead of "ok" if its result or items cannot be read, or ""."""
    keys = [cell.key for cell in cells]
    outcomes, damaged = store.outcomes(keys), store.damaged_items(keys)
    states = dict.fromkeys(keys, "")
    for cell in cells:
        if (outcome := outcomes.get(cell.key)) is not None:
            is_damaged = outcome.status == "ok" and (cell.key in damaged or not outcome.is_readable(cell.kind))
            states[cell.key] = _DAMAGED if is_damaged else outcome.status
    return states


def find_run(workspace: Workspace, name: str | None) -> Plan:
    """The plan of the run whose id is `name` or starts with it; without a name, of the latest run.

    Raises InputError if there is no such run, if there are several, if the run cannot be read, or if this version
    measures in another way than the version that made its results.
    """
    plan = _find(workspace, name)
    if isinstance(plan, UnreadableRun):
        raise InputError(plan.message)
    if not plan.is_current:
        raise InputError(f"{plan.run}: another version of bitsweep measured this run in another way; run it again")
    return plan


def _find(workspace: Workspace, name: str | None) -> Plan | UnreadableRun:
    with Store(workspace.database) as store:
        plans = {stored.run: read_plan(stored) for stored in store.runs()}
    if not plans:
        raise InputError(f"{workspace.root}: there is no run yet; start one with `sweep run`")
    if name is None:
        return next(iter(plans.values()))
    if name in plans:
        return plans[name]
    matches = [run for run in plans if run.startswith(name)]
    if len(matches) == 1:
        return plans[matches[0]]
    if matches:
        raise InputError(f"{name}: several runs start with this name: {', '.join(matches[:5])}")
    similar = get_close_matches(name, list(plans), 3, 0.5)
    hint = f"did you mean {' or '.join(similar)}?" if similar else f"the latest runs are {', '.join([*plans][:5])}"
    raise InputError(f"{name}: no such run in {workspace.root}; {hint}; choose another workspace with --workspace")


def find_variant(workspace: Workspace, text: str) -> tuple[Plan, str | None]:
    """The plan of RUN, and the variant of RUN:VARIANT. Raises InputError.

    The names of runs and variants may contain colons, so the longest part that is a run counts.
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
