"""The jobs that run the tasks of a sweep: on all items or, with a rule, on as many as the comparison needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sweep.artefact import Artefact
from sweep.jobs.base import content_hash
from sweep.jobs.cell import PlannedJob, SweepInputs
from sweep.jobs.inputs import Baseline, Task
from sweep.jobs.model import MeasuredModel
from sweep.jobs.task import TaskJob
from sweep.jobs.task_rounds import TaskRoundsJob


def task_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    """A job for each task of the sweep. A variant whose reference runs the task too is compared with it in rounds, if
    the sweep has a rule for that."""
    for task in inputs.tasks:
        opened = model if task.takes_images else model.text_only
        job = TaskJob(opened, task, _answers(opened, task, inputs))
        reference = inputs.task_references.get(task.name)
        is_stored = job.key(inputs.resources) in inputs.whole_tasks
        if inputs.task_rule is not None and reference is not None and not is_stored:
            file = inputs.artefact(f"items-{reference[:16]}.json")
            rounds = TaskRoundsJob(opened, task, job.answers, inputs.task_rule, reference, file)
            yield PlannedJob(task.name, rounds, (reference,))
            continue
        equivalent = None
        if task.unbounded is not None:
            equivalent = TaskJob(opened, replace(task, identity=task.unbounded, unbounded=None))
        yield PlannedJob(task.name, job, equivalent=equivalent)


def _answers(model: MeasuredModel, task: Task, inputs: SweepInputs) -> Artefact:
    """The file for the answers of a model to a task."""
    content = {**model.identity(inputs.resources), "task": task.identity}
    return inputs.artefact(f"answers-{content_hash(content)[:16]}.json")
