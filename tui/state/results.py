"""The results of a run as the screen shows them. Everything is computed by `sweep`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from converters.errors import InputError
from sweep.analysis import figures, pareto_sets
from sweep.analysis.advice import Advice
from sweep.analysis.plots import Cost, Measure, costs, measures
from sweep.analysis.ptq_study import study_comparison
from sweep.analysis.trust import trust_notes
from sweep.commands.run_advice import advise_on_run
from sweep.record import Record
from sweep.results.history import find_run
from sweep.results.plan import Plan
from sweep.results.records import notes, records
from sweep.results.store import Store
from sweep.run_question import NO_QUESTION, RunQuestion
from sweep.workspace import Workspace
from tui.state.fit_answer import fit_elsewhere
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
    question: RunQuestion = NO_QUESTION  # what the advice was asked
    asked: str = ""  # which options of the run it was asked, in words

    def row(self, variant: str) -> Record | None:
        return next((row for row in self.rows if row.variant == variant), None)


def read_results(
    workspace: Workspace,
    run: str | None,
    limit: Limit | None = None,
    given: RunQuestion = NO_QUESTION,
    as_asked: Callable[[Plan], Plan] = lambda plan: plan,
) -> Results:
    """The results of this run, or of the latest one. The advice is asked what the run of `as_asked(plan)` was started
    with; what is `given` replaces it. Raises InputError if there is no run."""
    plan = as_asked(find_run(workspace, run))
    question = plan.question.overridden(given)
    with Store(workspace.database) as store:
        rows, remarks = tuple(figures.by_size(records(plan, store))), notes(plan, store)
    pareto, measure = pareto_sets.set_for_tables(rows)
    study = study_comparison(rows)
    return Results(
        plan=plan,
        rows=rows,
        choice=_choice(rows, plan, workspace, limit, question),
        pareto=pareto,
        pareto_measure=measure,
        tests=figures.task_tests(rows),
        recovery=figures.mean_recovery(rows),
        gains=tuple(pareto_sets.gains(rows)),
        measures=tuple(measures(rows)),
        costs=tuple(costs(rows)),
        notes=(*trust_notes(rows), *remarks, *(() if study is None else study.notes)),
        limit=limit,
        question=question,
        asked=plan.question.origin_words(given),
    )


def _choice(
    rows: tuple[Record, ...], plan: Plan, workspace: Workspace, limit: Limit | None, question: RunQuestion
) -> Advice | None:
    """The advice; None with a single variant and no target. GPUs are a limit on memory alone if `sweep fit` cannot say
    what fits them, because the model is not there any more."""
    if len(rows) < 2 and not question.target:
        return None
    most = None if limit is None else limit.bytes
    if question.needs_fit:
        try:
            return advise_on_run(rows, plan, workspace, question, ask_fit=fit_elsewhere)
        except InputError:
            question = replace(question, gpu=(), ctx=None)
    return advise_on_run(rows, plan, workspace, question, most)
