"""A document of a task with the answer of a variant: the unit that paired tests compare."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """The answer of a variant to one document, scored.

    `doc_hash` and `prompt_hash` are the hashes of the document and of the prompt: if they are equal, two variants
    received the same question. `value` is the task's primary metric for this document; `answer` is the generated text
    or the index of the chosen answer. `gold` is the right choice's share of the probability of all choices; None for
    tasks that generate text. `subject` is the sub-task that the document belongs to, such as a subject of MMLU.
    `cluster` is equal for questions about the same images; empty for items of their own.
    """

    doc_id: int
    doc_hash: str
    prompt_hash: str
    value: float
    answer: str
    gold: float | None = None
    subject: str = ""
    cluster: str = ""

    @property
    def question_key(self) -> str:
        """Equal for items with the same prompt, document and sub-task."""
        return f"{self.subject} {self.doc_id} {self.doc_hash} {self.prompt_hash}"
