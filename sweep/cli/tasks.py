"""The options that say which tasks are asked and how; `sweep run` and `sweep eval` share them."""

from __future__ import annotations

from enum import StrEnum

import typer


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


TASKS = typer.Option(
    None,
    "--tasks",
    help="By comma: tasks or groups of lm-eval, YAML files, or lists (quick, reasoning, qwen3-study, code); or none.",
)
TASK_DATA = typer.Option(
    None, "--task-data", help="A directory of task YAML files with their data, or of data sets as JSONL (gsm8k/...)."
)
LIMIT = typer.Option(None, "--limit", min=1, help="Items of each (sub-)task at most.")
NUM_FEWSHOT = typer.Option(
    None, "--num-fewshot", min=0, help="Examples before each question.", show_default="the task's"
)
CHAT_TEMPLATE = typer.Option(
    None, "--chat-template/--no-chat-template", help="Ask in the model's chat template.", show_default="not"
)
THINKING = typer.Option(
    None, "--thinking", help="Reasoning before an answer, cut off before it is scored; implies --chat-template."
)
MAX_GEN_TOKS = typer.Option(
    None, "--max-gen-toks", min=1, help="Tokens of an answer at most, reasoning included.", show_default="the task's"
)
ALLOW_CODE_EXECUTION = typer.Option(
    False, "--allow-code-execution", help="Let tasks such as humaneval run the code that the model writes (confined)."
)


def names(text: str | None) -> tuple[str, ...] | None:
    """The entries of a list by comma."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def is_on(switch: Switch | None) -> bool | None:
    return None if switch is None else switch is Switch.ON
