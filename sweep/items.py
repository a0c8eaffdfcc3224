"""One document of a task as a variant answered it: the unit that paired tests compare."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """Equal hashes prove that two variants were asked the same: of the document, and of the prompt made of it.

    `value` is the task's primary metric, `answer` the generated text or the index of the choice. `gold` is the right
    choice's share of the probability of all choices; None where answers are generated. `subject` is the sub-task that
    the document belongs to: a subject in a group such as MMLU.
    """

    doc_id: int
    doc_hash: str
    prompt_hash: str
    value: float
    answer: str
    gold: float | None = None
    subject: str = ""

    @property
    def question(self) -> str:
        """Equal for the very same prompt of the same document and task."""
        return f"{self.subject} {self.doc_id} {self.doc_hash} {self.prompt_hash}"
