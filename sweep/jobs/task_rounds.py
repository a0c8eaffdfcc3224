"""The job that runs a task in rounds, on items in random order, until it is known whether the variant loses.

The reference answers all items, with the ordinary job. The scores that it got are written to a file before this job
starts (see `StoredJob.reads_items`). The answers to each request are kept in another file, so that a later job with
another rule, or without one, asks nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from sweep.artefact import Artefact
from sweep.items import Item
from sweep.jobs.base import ItemsFile, Site
from sweep.jobs.settings import ComputeResources
from sweep.jobs.task import TaskJob, TaskResult
from sweep.reference_items import ReferenceItems
from sweep.statistics.task_stopping import TaskEnding, TaskStopRule


@dataclass(frozen=True)
class TaskRoundsResult(TaskResult):
    """The results on `n` of the task's `of_items` items, and why there are no more."""

    of_items: int = 0
    ending: TaskEnding = TaskEnding.ALL_ITEMS


@dataclass(frozen=True)
class TaskRoundsJob(TaskJob):
    """Run a task on as many items as `rule` needs. `reference` is the file with the scores of the reference, and
    `reference_key` the key of its result; without a file, which the reference did not give, all items are answered."""

    kind = "task_rounds"
    result_type = TaskRoundsResult
    procedure = 1
    whole_without_reference = True

    rule: TaskStopRule = field(default_factory=TaskStopRule)
    reference_key: str = ""
    reference: Artefact | None = None

    def identity(self, resources: ComputeResources) -> Any:
        own = {"rule": asdict(self.rule), "reference": self.reference_key}
        return super().identity(resources) | own

    @property
    def reads_items(self) -> ItemsFile | None:
        return None if self.reference is None else ItemsFile(self.reference_key, self.reference)

    def without_reference(self) -> Self:
        return replace(self, reference=None)

    def run(self, site: Site) -> TaskRoundsResult:
        comparison = None
        if self.reference is not None:
            comparison = _Comparison(ReferenceItems.load(site.path(self.reference)), self.rule)
        found = self.answer(site, comparison)
        result = self.result_of(found.run)
        fields = {name: getattr(result, name) for name in result.__dataclass_fields__}
        return TaskRoundsResult(**fields, of_items=found.of, ending=found.ending)


@dataclass(frozen=True)
class _Comparison:
    reference: ReferenceItems
    rule: TaskStopRule

    def __call__(self, items: Sequence[Item], higher_is_better: bool) -> TaskEnding | None:
        """Why the comparison ends after these items; None if it goes on, or if the reference has other items."""
        scores, own = self.reference.scores, {item.question_key: item.value for item in items}
        if not own.keys() <= scores.keys():
            return None
        sign = 1.0 if higher_is_better else -1.0
        differences = [sign * (value - scores[key]) for key, value in own.items()]
        rest = [key for key in scores if key not in own]
        clusters = [self.reference.clusters[key] for key in (*own, *rest)]
        return self.rule.ending(differences, clusters, len(scores), self.reference.fewest_clusters)
