"""One lm-eval task: its metrics, how it was asked, and each item's value and answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sweep.backends.check import SharingCheck
from sweep.items import Item
from sweep.jobs.base import Result, Site
from sweep.jobs.cell import Asked, PlannedJob
from sweep.jobs.given import Baseline, Task
from sweep.jobs.model import MeasuredModel, MeasuringJob
from sweep.jobs.settings import Where
from sweep.measure.task_options import TaskOptions

if TYPE_CHECKING:
    from sweep.measure.harness import Metric, TaskRun


@dataclass(frozen=True)
class TaskResult(Result):
    """The primary metric; `other` further ones. `settings` are the options that were used, `chance` what blind guessing
    scores. `left_out` items could not be scored here, `unfinished` answers reached their bound. `sharing` says what
    computing common prefixes once did to a sample of the questions."""

    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool
    n: int
    chance: float
    other: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: int = 0
    unfinished: int = 0
    sharing: SharingCheck | None = None
    notes: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()

    @property
    def summary(self) -> str:
        share = self.higher_is_better and 0.0 <= self.value <= 1.0
        return f"{100 * self.value:.1f} %" if share else f"{self.value:.3f}"

    @property
    def generated(self) -> bool:
        """Whether answers were generated; if none was, no bound on answers mattered."""
        return self.settings.get("max_gen_toks") is not None


@dataclass(frozen=True)
class TaskJob(MeasuringJob[TaskResult]):
    """Ask the model the task's questions."""

    kind = "task"
    found = TaskResult
    procedure = 2
    weight = 2.0

    model: MeasuredModel
    task: Task

    def identity(self, where: Where) -> Any:
        own = {"task": self.task.identity}
        return {"kind": self.kind, "procedure": self.procedure, **self.model.identity(where), **own}

    @property
    def like(self) -> str:
        return "all" if self.task.options.limit is None else "some"

    @property
    def units(self) -> int:
        return self.task.options.limit or 1

    def run(self, site: Site) -> TaskResult:
        from dataclasses import asdict

        from sweep.measure.harness import run_task

        backend, task, options = site.open(self.model), self.task, self.task.options
        run = run_task(backend, task.name, task.place(site.root), options, site.progress)
        primary = run.primary
        data = task.data or task.folder
        return TaskResult(
            metric=primary.name,
            value=primary.value,
            stderr=primary.stderr,
            higher_is_better=primary.higher_is_better,
            n=run.n,
            chance=run.chance,
            other={_metric_name(metric): metric.value for metric in run.metrics if metric is not primary},
            settings=options.identity
            | {
                "num_fewshot": run.num_fewshot,
                "max_gen_toks": run.max_gen_toks,
                "data": None if data is None else data.name,
            },
            left_out=run.left_out,
            unfinished=run.unfinished,
            sharing=None if run.sharing is None else SharingCheck(**asdict(run.sharing)),
            notes=tuple(_notes(run, options)),
            items=run.items_of(primary),
        )


def measure_tasks_of(model: MeasuredModel, asked: Asked, baseline: Baseline | None) -> Iterable[PlannedJob]:
    for task in asked.tasks:
        alike = None
        if task.unbounded is not None:
            alike = TaskJob(model, replace(task, identity=task.unbounded, unbounded=None))
        yield PlannedJob(task.name, TaskJob(model, task), alike=alike)


def _notes(run: TaskRun, options: TaskOptions) -> list[str]:
    """What a reader of the score should know."""
    notes = []
    if run.left_out:
        why = "to check them takes data of nltk that is not here"
        notes.append(f"{run.left_out} items left out, {run.n} scored: {why}")
    if run.unfinished and options.thinking:
        notes.append(f"{run.unfinished} of {run.n} answers reached their bound of {run.max_gen_toks} tokens")
    return notes


def _metric_name(metric: Metric) -> str:
    return metric.name if metric.filter == "none" else metric.key
