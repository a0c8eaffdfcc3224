"""The options of a task. Results of two runs are comparable only if their options are equal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


class MeasurementError(Exception):
    """A measurement gave no valid figure; the message is one line. Only this measurement fails, not the whole run."""


@dataclass(frozen=True)
class TaskOptions:
    """How lm-eval runs a task. None leaves a choice to the task's own file.

    Attributes:
        limit: use only the first items of each sub-task, up to this number.
        num_fewshot: number of examples before each question.
        chat_template: write the prompt as a conversation in the model's own chat template.
        thinking: True or False turns reasoning on or off in that template; None leaves the template's default. With
            True or False the reasoning is removed from the answer before scoring.
        max_gen_toks: limit on the new tokens of an answer, including reasoning.
        allow_code: the user permits running code that the model writes. It changes no result.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    thinking: bool | None = None
    max_gen_toks: int | None = None
    allow_code: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """Every option that results depend on: part of the job key."""
        return {name: value for name, value in asdict(self).items() if name != "allow_code"}

    @property
    def words(self) -> str:
        """The options as readable text, such as `first 200 items, 5-shot, chat template, thinking on`."""
        thinking = "" if self.thinking is None else f"thinking {'on' if self.thinking else 'off'}"
        parts = (
            f"first {self.limit} items" if self.limit is not None else "all items",
            f"{self.num_fewshot}-shot" if self.num_fewshot is not None else "",
            "chat template" if self.chat_template else "",
            thinking,
            f"at most {self.max_gen_toks} tokens" if self.max_gen_toks is not None else "",
        )
        return ", ".join(part for part in parts if part)
