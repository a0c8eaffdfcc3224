"""The reasoning that a model writes before its answer, between the tags <think> and </think> as Qwen's models do.

An answer may quote a tag. Therefore a tag counts only where reasoning can begin or end: the chat template or the model
opens it before the answer, and the first closing tag ends it. If the vocabulary has tokens for the tags, only these
tokens are tags, and the same characters in other tokens are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sweep.backends.base import Backend

THINK_START, THINK_END = "<think>", "</think>"


class Opening(Enum):
    """What the prompt's last, unfinished message says about reasoning: nothing, that it has begun, or that it is
    over."""

    NONE = "none"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True)
class Answer:
    """The text after the reasoning. `in_reasoning`: the generation ended before its reasoning did; `text` is empty."""

    text: str
    in_reasoning: bool = False


def can_reason(chat_template: str | None) -> bool:
    """Whether a chat template has a tag of reasoning, so that its model may reason."""
    return chat_template is not None and (THINK_START in chat_template or THINK_END in chat_template)


class Reasoning:
    """Finds the reasoning in prompts and generated tokens of one model."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        found = [backend.tokenize(tag, parse_special=True) for tag in (THINK_START, THINK_END)]
        self._tokens = None if any(len(tokens) != 1 for tokens in found) else tuple(int(tokens[0]) for tokens in found)

    def opening(self, prompt: Sequence[int]) -> Opening:
        """What the last message of a prompt says. Earlier messages, which an end token follows, may quote tags."""
        ended = next((i for i in range(len(prompt) - 1, -1, -1) if prompt[i] in self._backend.end_ids), -1)
        message = list(prompt[ended + 1 :])
        if self._tokens is not None:
            last = next((token for token in reversed(message) if token in self._tokens), None)
            tag = None if last is None else (THINK_START, THINK_END)[self._tokens.index(last)]
        else:
            text = self._backend.detokenize(message, special=True)
            tag = max((THINK_START, THINK_END), key=text.rfind) if THINK_START in text or THINK_END in text else None
        return {None: Opening.NONE, THINK_START: Opening.OPEN, THINK_END: Opening.CLOSED}[tag]

    def answer(self, generated: Sequence[int], opening: Opening) -> Answer:
        """The answer in generated tokens. Blanks at its beginning are removed if reasoning comes before it."""
        if self._tokens is None:
            return self._answer_in_text(self._backend.detokenize(generated), opening)
        start, end = self._tokens
        first = next((i for i, t in enumerate(generated) if self._backend.detokenize([t], special=True).strip()), 0)
        if opening is not Opening.OPEN and start not in generated[first : first + 1]:
            return Answer(self._backend.detokenize(generated))
        if end not in generated:
            return Answer("", in_reasoning=True)
        return Answer(self._backend.detokenize(generated[list(generated).index(end) + 1 :]).lstrip())

    def _answer_in_text(self, text: str, opening: Opening) -> Answer:
        if opening is not Opening.OPEN and not text.lstrip().startswith(THINK_START):
            return Answer(text)
        _, closed, answer = text.partition(THINK_END)
        return Answer(answer.lstrip()) if closed else Answer("", in_reasoning=True)
