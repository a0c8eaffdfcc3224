"""Finds the items of tasks to which a variant gives another answer than its reference, and what they ask."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweep.analysis.item_answers import ChangedItem, ChangedItems, GivenAnswer, ItemImage
from sweep.items import Item, Question
from sweep.jobs.task import TaskJob, TaskResult
from sweep.measure.image_prompt import PLACEHOLDER
from sweep.results.paired_items import pair_items
from sweep.results.plan import Plan
from sweep.results.store import Store


@dataclass(frozen=True)
class _Change:
    """A document with the reference's answer, and the other answers to it by variant."""

    before: Item
    after: dict[str, Item]
    sign: int  # 1 if higher values are better, -1 if lower ones are

    def gain(self, variant: str) -> float:
        return self.sign * (self.after[variant].value - self.before.value)


def changed_items(
    plan: Plan, store: Store, root: Path, limit: int, variants: Collection[str] | None = None
) -> list[ChangedItems]:
    """For each task and reference the items that changed, at most about `limit` in all. `variants` are those to
    compare, by default all of the run; `root` is the workspace's folder. Tasks in which nothing changed are left out.

    Raises InputError if stored results cannot be read.
    """
    wanted = plan.variants if variants is None else variants
    tasks = {cell.name: cell.job for cell in plan.cells if isinstance(cell.job, TaskJob)}
    references = list(dict.fromkeys(plan.reference_of(variant) for variant in wanted))
    compared = {
        (name, reference): _changes(
            plan, store, name, reference, [v for v in wanted if plan.reference_of(v) == reference]
        )
        for name in tasks
        for reference in references
    }
    found = {at: changes for at, changes in compared.items() if changes}
    each = max(1, limit // max(1, len(found)))
    return [
        ChangedItems(
            name,
            reference,
            tuple(_shown(tasks[name], reference, one, store, root) for one in changes[:each]),
            len(changes),
        )
        for (name, reference), changes in found.items()
    ]


def _changes(plan: Plan, store: Store, task: str, reference: str, variants: Sequence[str]) -> list[_Change]:
    """The documents of a task whose answer changed, in the order in which they are shown: the largest losses first."""
    cells = {cell.variant: cell for cell in plan.cells if cell.name == task and isinstance(cell.job, TaskJob)}
    outcomes = store.outcomes(cell.key for cell in cells.values())
    measured = {
        variant: cell for variant, cell in cells.items() if cell.key in outcomes and outcomes[cell.key].status == "ok"
    }
    if reference not in measured:
        return []
    result = outcomes[measured[reference].key].result(measured[reference], plan.run)
    assert isinstance(result, TaskResult)
    base = store.items_of(measured[reference], plan.run)
    found: dict[int, _Change] = {}
    for variant in variants:
        if variant == reference or variant not in measured:
            continue
        own = store.items_of(measured[variant], plan.run)
        shared = pair_items([base, own])
        for at, before, after in zip(shared.rows[0].tolist(), *shared.of([base, own]), strict=True):
            if (before.answer, before.value) != (after.answer, after.value):
                change = found.setdefault(at, _Change(before, {}, 1 if result.higher_is_better else -1))
                change.after[variant] = after
    ordered = [found[at] for at in sorted(found)]
    return sorted(ordered, key=lambda change: sum(map(change.gain, change.after)))


def _shown(job: TaskJob, reference: str, change: _Change, store: Store, root: Path) -> ChangedItem:
    before, question = change.before, store.question(change.before)

    def words(item: Item) -> str:
        return item.answer if question is None else question.answer(item.answer)

    return ChangedItem(
        task=job.task.name,
        subject=before.subject,
        doc_id=before.doc_id,
        text=None if question is None else question.text.replace(PLACEHOLDER, "", len(question.images)),
        target=None if question is None else question.target,
        images=() if question is None else tuple(_images(job, question, root)),
        before=GivenAnswer(reference, words(before), before.value),
        after=tuple(
            GivenAnswer(variant, words(item), item.value, change.gain(variant))
            for variant, item in change.after.items()
        ),
    )


def _images(job: TaskJob, question: Question, root: Path) -> Iterator[ItemImage]:
    folder = job.task.folder or job.task.data
    for image in question.images:
        file = None if folder is None or not image.path else folder.under(root) / image.path
        yield ItemImage(file, image.digest)
