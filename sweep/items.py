"""A document of a task: the answer of a variant to it, which paired tests compare, and what it asks."""

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


LONGEST_TEXT = 2000  # characters of a question that are stored; a passage can be much longer
LONGEST_CHOICE = 300


@dataclass(frozen=True)
class QuestionImage:
    """An image of a question: its path in the task's folder, "" if the data set has only its bytes, and the SHA-256 of
    its bytes in hexadecimal."""

    path: str
    digest: str


@dataclass(frozen=True)
class Question:
    """What a document asks, for people who compare answers. It belongs to the items with the same subject and hashes.

    `text` is the question without examples and chat template, `choices` are the answers to choose from, empty for tasks
    that generate text. `target` is the right answer. Long texts keep their end, long choices their beginning.
    """

    subject: str
    doc_hash: str
    prompt_hash: str
    text: str
    choices: tuple[str, ...] = ()
    target: str = ""
    images: tuple[QuestionImage, ...] = ()

    def answer(self, item_answer: str) -> str:
        """An item's answer in words: the choice that its index names, or the generated text."""
        known = {str(i): choice for i, choice in enumerate(self.choices)}
        return known.get(item_answer, item_answer)
