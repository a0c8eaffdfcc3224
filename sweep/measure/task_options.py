"""The options of a task. Results of two runs are comparable only if their options are equal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class MeasurementError(Exception):
    """A measurement gave no valid figure; the message is one line. Only this measurement fails, not the whole run."""


class ThinkingScoring(StrEnum):
    """What is scored if a model reasons before it answers.

    ANSWER: the text after the first closing tag; an answer that ends inside the reasoning is empty. LM_EVAL: as lm-eval
    does with `think_end_token`, if thinking is turned on or off: the text after the last closing tag, or the reasoning
    if there is none.
    """

    ANSWER = "answer"
    LM_EVAL = "lm-eval"


@dataclass(frozen=True)
class TaskOptions:
    """How lm-eval runs a task. None leaves a choice to the task's own file.

    Attributes:
        limit: use only the first items of each sub-task, up to this number.
        num_fewshot: number of examples before each question.
        chat_template: write the prompt as a conversation in the model's own chat template.
        thinking: True or False turns reasoning on or off in that template; None leaves the template's default.
        moves_system: the template rejects system messages, so their text is moved to the user's first message.
        thinking_scoring: how reasoning is removed from an answer; without the chat template nothing is removed.
        max_gen_toks: limit on the new tokens of an answer, including reasoning.
        allow_code: the user permits running code that the model writes. It changes no result.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    thinking: bool | None = None
    max_gen_toks: int | None = None
    allow_code: bool = False
    moves_system: bool = False
    thinking_scoring: ThinkingScoring = ThinkingScoring.ANSWER

    @property
    def scores_answers(self) -> bool:
        """Whether reasoning is removed from answers as ThinkingScoring.ANSWER says."""
        return self.chat_template and self.thinking_scoring is ThinkingScoring.ANSWER

    @property
    def identity(self) -> dict[str, Any]:
        """Every option that results depend on: part of the job key.

        lm-eval's way to score reasoning has no name in it, because results of earlier versions were scored in this way.
        """
        added = ("allow_code", "thinking_scoring", "moves_system")
        own = {name: value for name, value in asdict(self).items() if name not in added}
        scoring = {"thinking_scoring": "answer"} if self.scores_answers else {}
        return own | scoring | ({"system": "in the first user message"} if self.moves_system else {})

    @property
    def if_nothing_is_generated(self) -> TaskOptions:
        """Options with the same results for tasks that generate no text: without those for generated answers."""
        scoring = ThinkingScoring.LM_EVAL if self.scores_answers else self.thinking_scoring
        return replace(self, max_gen_toks=None, thinking_scoring=scoring)

    @property
    def words(self) -> str:
        """The options as readable text, such as `first 200 items, 5-shot, chat template, thinking on`."""
        thinking = "" if self.thinking is None else f"thinking {'on' if self.thinking else 'off'}"
        parts = (
            f"first {self.limit} items" if self.limit is not None else "all items",
            f"{self.num_fewshot}-shot" if self.num_fewshot is not None else "",
            "chat template" if self.chat_template else "",
            thinking,
            "reasoning scored as lm-eval does" if thinking and not self.scores_answers else "",
            f"at most {self.max_gen_toks} tokens" if self.max_gen_toks is not None else "",
        )
        return ", ".join(part for part in parts if part)
