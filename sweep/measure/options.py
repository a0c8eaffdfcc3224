"""How a task is asked: what may differ between two runs of one task, and must not be mixed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


class MeasurementError(Exception):
    """A measurement that gave no figure, in one line. It costs its cell; the input as a whole is not to blame."""


@dataclass(frozen=True)
class TaskOptions:
    """None leaves a choice to the task's own file.

    `limit` takes the first items of each sub-task, `num_fewshot` examples stand before a question. With
    `chat_template` the prompt is a conversation in the model's own template. `thinking` True or False asks that
    template for reasoning or for none (None: what it does by itself), and reasoning is cut off the answer.
    `max_gen_toks` bounds a generation, reasoning included. `allow_code`: the user's consent to run code that the model
    writes; it changes no result.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    thinking: bool | None = None
    max_gen_toks: int | None = None
    allow_code: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """All that results depend on."""
        return {name: value for name, value in asdict(self).items() if name != "allow_code"}

    @property
    def words(self) -> str:
        """For people: `first 200 items, 5-shot, chat template, thinking on`."""
        thinking = "" if self.thinking is None else f"thinking {'on' if self.thinking else 'off'}"
        said = (
            f"first {self.limit} items" if self.limit is not None else "all items",
            f"{self.num_fewshot}-shot" if self.num_fewshot is not None else "",
            "chat template" if self.chat_template else "",
            thinking,
            f"at most {self.max_gen_toks} tokens" if self.max_gen_toks is not None else "",
        )
        return ", ".join(part for part in said if part)
