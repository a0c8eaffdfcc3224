"""What the chat templates of a sweep's models say about the results of its tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from converters.chat_template import chat_template
from sweep.measure.chat import TemplateAlone, rejects_system
from sweep.measure.reasoning import can_reason
from sweep.measure.task_options import TaskOptions, ThinkingScoring


def with_templates(options: TaskOptions, models: Iterable[Path]) -> TaskOptions:
    """The options with those that depend on chat templates; `models` are all models with a tokenizer of their own.

    Options that change no result get the values that earlier versions had, so that stored results are found: if no
    template has a tag of reasoning, and thinking is not turned on or off, both ways to score it are the same.
    """
    if not options.chat_template:
        return options
    templates = {template for path in models if (template := chat_template(path)) is not None}
    reasons = options.thinking is not None or any(map(can_reason, templates))
    return replace(
        options,
        thinking_scoring=options.thinking_scoring if reasons else ThinkingScoring.LM_EVAL,
        # only a template that can raise an error is tried, because that loads transformers
        moves_system=any(rejects_system(TemplateAlone(one)) for one in templates if "raise_exception" in one),
    )
