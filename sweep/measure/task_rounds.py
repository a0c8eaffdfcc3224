"""A task whose items are answered in rounds, in random order, until a comparison with the reference may stop.

lm-eval builds the prompts of all items, as for a whole run: the examples in a prompt can depend on the items before it.
Each round answers further items. In the end, lm-eval computes the figures from all answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.errors import InputError
from sweep.backends.base import Backend
from sweep.items import Item
from sweep.measure.harness import Metric, TaskItem, TaskRun, as_run, items_of_results, metrics_of_results
from sweep.measure.kept_answers import KeptAnswers
from sweep.measure.lm_eval_model import TaskProgress, UnusableItems, make_lm
from sweep.measure.lm_eval_tasks import LoadedTask, TaskLocation, load_task, quiet
from sweep.measure.simple_evaluate import evaluate, requests_of
from sweep.measure.task_options import TaskOptions
from sweep.statistics.task_stopping import TaskEnding, stratified_order, task_looks

Document = tuple[str, int]
"""A sub-task, and the number of one of its documents."""
EndingOf = Callable[[Sequence[Item], bool], TaskEnding | None]
"""Why a comparison ends after these items, in the order in which they were answered; None if it goes on. The second
argument says whether a higher score is better."""


@dataclass(frozen=True)
class PartialRun:
    """The results of the first items of a task in random order, of `of` items in all, and why there are no more."""

    run: TaskRun
    of: int
    ending: TaskEnding


def run_task_in_rounds(
    backend: Backend,
    task: str,
    location: TaskLocation,
    options: TaskOptions,
    progress: TaskProgress | None = None,
    *,
    seed: int = 0,
    ending: EndingOf | None = None,
    kept: Path | None = None,
) -> PartialRun:
    """Evaluate a task on as many items as `ending` needs; without it, or if the primary metric is not 0 or 1 for each
    item, on all of them.

    `seed` determines the order of the items. `kept` is a file with answers of earlier calls, to which the new ones are
    added. Raises the errors of `run_task`.
    """
    told = _Progress(progress)
    with quiet(location.offline):
        loaded = load_task(task, location, options)
        lm: Any = make_lm(backend, options, told)
        part = _PartOfTask(loaded, lm, options)
        told.requests = part.requests
        kept_answers = KeptAnswers(lm, kept)
        order = [part.documents[i] for i in stratified_order([name for name, _ in part.documents], seed)]
        why, rounds, done = TaskEnding.ALL_ITEMS, _Rounds(), 0
        for look in task_looks(len(order)) if ending is not None else (len(order),):
            rounds.add(*part.answer(order[done:look]))
            kept_answers.save()
            told.answered, done = kept_answers.asked, look
            if look < len(order) and ending is not None and rounds.metric is not None:
                found = ending(rounds.items, rounds.metric.higher_is_better)
                if found is not None:
                    why = found
                    break
        results = part.figures(order[:done])
        run = as_run(task, backend, loaded, lm, results, options)
        if why is not TaskEnding.ALL_ITEMS and (
            rounds.metric is None or run.primary.key != rounds.metric.key
        ):  # it was judged by another metric
            part.answer(order[done:])
            kept_answers.save()
            why, results = TaskEnding.ALL_ITEMS, part.figures(order)
            run = as_run(task, backend, loaded, lm, results, options)
    return PartialRun(run, len(order) - len(loaded.unusable), why)


class _Progress:
    """Reports the progress of all rounds together. `requests` is the number of all requests, of which `answered` were
    answered in earlier rounds."""

    def __init__(self, report: TaskProgress | None) -> None:
        self._report = report
        self.requests = self.answered = 0

    def __call__(self, done: int, _total: int, part: str) -> None:
        if self._report is not None:
            self._report(self.answered + done, max(self.requests, self.answered + done), part)


class _Rounds:
    """The items of all rounds so far, by the metric that decides: the first one that is 0 or 1 for every item. There
    are none if there is no such metric."""

    def __init__(self) -> None:
        self._found: list[TaskItem] = []
        self._metrics: Sequence[Metric] = ()
        self.metric: Metric | None = None

    def add(self, metrics: Sequence[Metric], items: Sequence[TaskItem]) -> None:
        self._found += items
        self._metrics = self._metrics or metrics
        binary = (one for one in self._metrics if all(i.values.get(one.key) in (0.0, 1.0) for i in self._found))
        self.metric = next(binary, None)

    @property
    def items(self) -> list[Item]:
        return [] if self.metric is None else [item.scored(self.metric) for item in self._found]


class _PartOfTask:
    """A task of which lm-eval gets only some documents, with the prompts that they have in the whole task."""

    def __init__(self, loaded: LoadedTask, lm: Any, options: TaskOptions) -> None:
        self._loaded, self._lm, self._options = loaded, lm, options
        requests_of(lm, loaded, options, options.limit)
        self._instances = {name: list(task.instances) for name, task in loaded.tasks.items()}
        self._chosen: set[Document] = set()
        self.documents: list[Document] = [
            (name, number)
            for name, instances in self._instances.items()
            for number in dict.fromkeys(one.doc_id for one in instances)
        ]
        for name, task in loaded.tasks.items():
            self._restrict(name, task)

    @property
    def requests(self) -> int:
        return sum(map(len, self._instances.values()))

    def _restrict(self, name: str, task: Any) -> None:
        documents = task.doc_iterator

        def build(**_: Any) -> None:
            chosen = [one for one in self._instances[name] if self._is_chosen(name, one.doc_id)]
            task._instances = [_unanswered(one) for one in chosen]

        task.build_all_requests = build
        task.doc_iterator = lambda **which: (one for one in documents(**which) if (name, one[0]) in self._chosen)

    def _is_chosen(self, name: str, number: int) -> bool:
        return (name, number) in self._chosen and (name, number) not in self._loaded.unusable

    def answer(self, documents: Sequence[Document]) -> tuple[Sequence[Metric], list[TaskItem]]:
        """Answer these documents. Returns the metrics of one sub-task and the items, in the order of `documents`.

        Raises InputError if none of the documents of a sub-task in the whole task can be used.
        """
        left = list(documents)
        while left := [one for one in left if one not in self._loaded.unusable]:
            names = {name for name, _ in left}
            tasks = {name: task for name, task in self._loaded.tasks.items() if name in names}
            try:
                results = self._evaluate(left, list(tasks.values()))
            except UnusableItems as found:  # before the model answers; the task goes on without them
                self._chosen = set(self.documents)  # what remains is judged by the whole task
                self._loaded.leave_out(found.reasons, self._options.limit)
                continue
            first, task = next(iter(tasks.items()))
            view = replace(self._loaded, root=task, name=first, tasks=tasks)
            items = {(item.task, item.doc_id): item for item, _ in items_of_results(view, results)}
            one = replace(view, tasks={first: task})
            return metrics_of_results(one, results), [items[document] for document in left]
        return (), []

    def figures(self, documents: Collection[Document]) -> dict[str, Any]:
        """What lm-eval computes for the task from these documents, which were answered before."""
        if not set(documents) - self._loaded.unusable.keys():
            raise InputError(f"task {self._loaded.name}: no item of it can be measured")
        return self._evaluate(documents, None)

    def _evaluate(self, documents: Collection[Document], sub_tasks: Sequence[Any] | None) -> dict[str, Any]:
        self._chosen = set(documents)
        return evaluate(self._lm, self._loaded, self._options, self._options.limit, sub_tasks)


def _unanswered(instance: Any) -> Any:
    """A copy of a request without answers."""
    fresh = copy(instance)
    fresh.resps, fresh.filtered_resps = [], {}
    return fresh
