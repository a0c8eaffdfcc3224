"""Whether the models of a sweep may reason before they answer, which their chat templates say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from converters.chat_template import chat_template
from sweep.measure.reasoning import can_reason
from sweep.measure.task_options import ThinkingScoring
from sweep.planning.request import Request


def thinking_scoring(request: Request, models: Iterable[Path]) -> ThinkingScoring:
    """How the tasks are scored; `models` are all models with a tokenizer of their own.

    If no template has a tag of reasoning, and the option for thinking is not given, both ways give the same scores.
    lm-eval's is named then, so that results which earlier versions stored are found.
    """
    matters = request.thinking is not None or any(can_reason(chat_template(path)) for path in models)
    return request.thinking_scoring if matters else ThinkingScoring.LM_EVAL
