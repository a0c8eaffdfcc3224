"""The job that runs one lm-eval task: its metrics, its settings, and the value and answer of each item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sweep.artefact import Artefact
from sweep.backends.sharing_check import SharingCheck
from sweep.items import Item, Question
from sweep.jobs.base import Result, Site, content_hash
from sweep.jobs.inputs import Task
from sweep.jobs.model import MeasuredModel, MeasurementJob
from sweep.jobs.settings import ComputeResources
from sweep.measure.task_options import TaskOptions

if TYPE_CHECKING:
    from sweep.measure.harness import Metric, TaskRun
    from sweep.measure.task_rounds import EndingOf, PartialRun

MAX_REASONS = 10  # lines of items that were left out


@dataclass(frozen=True)
class TaskResult(Result):
    """The result of a task: its primary metric, and further metrics in `other`.

    `settings` are the options that were used, `chance` is the score of blind guessing. `left_out` counts the items that
    could not be scored on this machine, `unfinished` the answers that reached the limit on their length or ended inside
    the reasoning, `in_reasoning` only the latter. `sharing` says how much computing common prefixes once changed the
    answers to a sample of the questions.
    """

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
    in_reasoning: int = 0
    sharing: SharingCheck | None = None
    notes: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    questions: tuple[Question, ...] = ()

    @property
    def summary(self) -> str:
        share = self.higher_is_better and 0.0 <= self.value <= 1.0
        return f"{100 * self.value:.1f} %" if share else f"{self.value:.3f}"

    @property
    def generated(self) -> bool:
        """Whether answers were generated. If not, no option for answers mattered."""
        return self.settings.get("max_gen_toks") is not None


@dataclass(frozen=True)
class TaskJob(MeasurementJob[TaskResult]):
    """Run a task on the model. `answers` is the file with answers that a job in rounds has kept; there may be none."""

    kind = "task"
    result_type = TaskResult
    procedure = 2
    weight = 3.0

    model: MeasuredModel
    task: Task
    answers: Artefact | None = None

    def identity(self, resources: ComputeResources) -> Any:
        own = {"task": self.task.identity}
        return {"kind": self.kind, "procedure": self.procedure, **self.model.identity(resources), **own}

    @property
    def timing_group(self) -> str:
        return "all" if self.task.options.limit is None else "some"

    @property
    def work_units(self) -> int:
        return self.task.options.limit or 1

    def run(self, site: Site) -> TaskResult:
        from sweep.measure.harness import run_task

        if self.answers is not None and site.path(self.answers).exists():
            return self.result_of(self.answer(site).run)
        backend, task = site.open(self.model), self.task
        return self.result_of(run_task(backend, task.name, task.location(site.root), task.options, site.progress))

    def answer(self, site: Site, ending: EndingOf | None = None) -> PartialRun:
        """Run the task on as many items as `ending` needs, without asking again what is in the file `answers`."""
        from sweep.measure.task_rounds import run_task_in_rounds

        task = self.task
        return run_task_in_rounds(
            site.open(self.model),
            task.name,
            task.location(site.root),
            task.options,
            site.progress,
            seed=int(content_hash(task.identity)[:8], 16),
            ending=ending,
            kept=None if self.answers is None else site.path(self.answers),
        )

    def result_of(self, run: TaskRun) -> TaskResult:
        """The result with the figures of a run."""
        options, primary = self.task.options, run.primary
        data = self.task.data or self.task.folder
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
            }
            | ({} if run.pixels is None else {"min_pixels": run.pixels[0], "max_pixels": run.pixels[1]}),
            left_out=run.left_out + len(run.unusable),
            unfinished=run.unfinished,
            in_reasoning=run.in_reasoning,
            sharing=None if run.sharing is None else SharingCheck(**asdict(run.sharing)),
            notes=tuple(_notes(run, options)),
            items=run.items_of(primary),
            questions=run.questions,
        )


def _notes(run: TaskRun, options: TaskOptions) -> list[str]:
    """Notes for readers of the score."""
    notes = []
    if run.left_out:
        why = "checking them needs nltk data that is not installed"
        notes.append(f"{run.left_out} items left out, {run.n} scored: {why}")
    notes += [f"left out: {reason}" for reason in run.unusable[:MAX_REASONS]]
    if len(run.unusable) > MAX_REASONS:
        notes.append(f"{len(run.unusable)} items left out, {run.n} scored; {MAX_REASONS} of them are named above")
    if run.unfinished:
        empty = f", {run.in_reasoning} of them inside the reasoning, which leaves an empty answer"
        notes.append(
            f"{run.unfinished} of {run.n} answers did not end within the limit of {run.max_gen_toks} tokens"
            f"{empty if run.in_reasoning else ''}; --max-gen-toks sets the limit"
        )
    if run.moved_system:
        notes.append("the chat template rejects system messages: their text begins the first message of the user")
    if run.thinking_ignored:
        switch, does = ("on", "ends") if options.thinking else ("off", "begins")
        notes.append(f"--thinking {switch} has no effect: the prompt of the task or chat template {does} the reasoning")
    return notes


def _metric_name(metric: Metric) -> str:
    return metric.name if metric.filter == "none" else metric.key
