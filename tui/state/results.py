"""The results of a run as the screen shows them. Everything is computed by `sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from presets.advice import Tolerance
from sweep.analysis import figures, pareto_sets
from sweep.analysis.advice import Advice
from sweep.analysis.plots import Cost, Measure, costs, measures
from sweep.analysis.ptq_study import study_comparison
from sweep.analysis.run_candidates import advise_on_records
from sweep.analysis.run_commands import run_commands
from sweep.analysis.trust import trust_notes
from sweep.record import Record
from sweep.results.history import find_run
from sweep.results.plan import Plan
from sweep.results.records import notes, records
from sweep.results.store import Store
from sweep.workspace import Workspace
from tui.state.session import Limit


@dataclass(frozen=True)
class Results:
    """A run and its analysis. `rows` are sorted from the smallest to the largest variant."""

    plan: Plan
    rows: tuple[Record, ...]
    choice: Advice | None
    pareto: pareto_sets.ParetoSet
    pareto_measure: str
    tests: Mapping[tuple[str, str], figures.TaskTest]
    recovery: Mapping[str, figures.Figure]
    gains: tuple[pareto_sets.Gain, ...]
    measures: tuple[Measure, ...]
    costs: tuple[Cost, ...]
    notes: tuple[str, ...]
    limit: Limit | None = None

    def row(self, variant: str) -> Record | None:
        return next((row for row in self.rows if row.variant == variant), None)


def read_results(
    workspace: Workspace, run: str | None, limit: Limit | None = None, tolerance: Tolerance | None = None
) -> Results:
    """The results of this run, or of the latest one; `tolerance` is the loss on tasks that the advice accepts. Raises
    InputError if there is none."""
    plan = find_run(workspace, run)
    with Store(workspace.database) as store:
        rows, remarks = tuple(figures.by_size(records(plan, store))), notes(plan, store)
    pareto, measure = pareto_sets.set_for_tables(rows)
    study = study_comparison(rows)
    return Results(
        plan=plan,
        rows=rows,
        choice=advise_on_records(
            rows, plan.model, None if limit is None else limit.bytes, tolerance, run_commands(plan, workspace)
        )
        if len(rows) > 1
        else None,
        pareto=pareto,
        pareto_measure=measure,
        tests=figures.task_tests(rows),
        recovery=figures.mean_recovery(rows),
        gains=tuple(pareto_sets.gains(rows)),
        measures=tuple(measures(rows)),
        costs=tuple(costs(rows)),
        notes=(*trust_notes(rows), *remarks, *(() if study is None else study.notes)),
        limit=limit,
    )
