"""The answers to an item that changed, next to what the item asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GivenAnswer:
    """The answer of a variant in words, and the value of the task's primary metric for it. `gain` is positive if the
    value is better than the reference's, negative if it is worse."""

    variant: str
    words: str
    value: float
    gain: float = 0.0


@dataclass(frozen=True)
class ItemImage:
    """An image of a question: its file, None if the data set has only its bytes, and the SHA-256 of its bytes."""

    file: Path | None
    digest: str


@dataclass(frozen=True)
class ChangedItem:
    """A document, the answer of the reference and the answers that differ from it or are scored otherwise.

    `text` and `target` (the right answer) are None if an earlier version stored the items.
    """

    task: str
    subject: str
    doc_id: int
    text: str | None
    target: str | None
    images: tuple[ItemImage, ...]
    before: GivenAnswer
    after: tuple[GivenAnswer, ...]

    @property
    def name(self) -> str:
        """The sub-task and the number of the document in it."""
        return f"{self.subject or self.task} {self.doc_id}"


@dataclass(frozen=True)
class ChangedItems:
    """The first of the items of a task that changed, those with the largest losses first, and how many changed."""

    task: str
    reference: str
    shown: tuple[ChangedItem, ...]
    changed: int
