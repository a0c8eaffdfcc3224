"""What can be known before any work: that tasks and texts can be had, and that the model's vocabulary suits them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converters.errors import InputError
from int8.text import FEWEST_TOKENS
from sweep.execution import runner
from sweep.execution.child import Child, Failed
from sweep.planning.cells import Cell
from sweep.planning.inputs import Text
from sweep.planning.model import Model
from sweep.planning.plan import Plan
from sweep.planning.tasks import Task
from sweep.planning.variant import Variant

BYTES_A_TOKEN = 8  # a text of more than so many is long enough without counting


def check_inputs(
    plan: Plan,
    todo: Sequence[Cell],
    model: Model,
    variants: Sequence[Variant],
    text: Text | None,
    tasks: Sequence[Task],
    directory: Path,
    calibration: Text | None = None,
) -> None:
    """Look at what the cells `todo` will read; int8 recipes read `calibration`. Raises InputError where one of them
    could not but fail for it.
    """
    asked = {cell.name for cell in todo if cell.kind == "task"}
    wanted = [task for task in tasks if task.name in asked]
    read = text if any(cell.kind == "text" for cell in todo) else None
    log = runner.log_path(directory, "inputs")
    _fetched(model, wanted, read, log, "--perplexity")
    if calibration is not None and any(cell.kind == "quantize" and cell.params["text"] is not None for cell in todo):
        _fetched(model, [], calibration, log, "--calibration")
        _calibrates(model, calibration, log)
    if any(variant.quant is not None or variant.is_torch or variant.file == model.path for variant in variants):
        _suited(plan, model, wanted, read, log)


def _fetched(model: Model, tasks: Sequence[Task], text: Text | None, log: Path, option: str) -> None:
    """Tasks and texts that are not local may need a network; `option` takes a text that does not."""
    foreign = [task for task in tasks if not task.is_local or model.builtin is None or task.data]
    dataset = text.dataset if text is not None and not text.file.exists() else None
    if not foreign and dataset is None:
        return
    job = {
        "kind": "inputs",
        "tasks": [task.to_json() for task in foreign],
        "dataset": dataset,
        "file": None if text is None else str(text.file),
        "option": option,
    }
    with Child(log) as child:
        for answer in child.submit(job):
            if isinstance(answer, Failed):
                raise answer.error


def _suited(plan: Plan, model: Model, tasks: Sequence[Task], text: Text | None, log: Path) -> None:
    """The chat template, and the length of a text that may be too short."""
    chat = next((task.options for task in tasks if task.options.chat_template), None)
    window = plan.settings.window
    doubtful = text is not None and text.file.stat().st_size < 2 * window * BYTES_A_TOKEN
    if chat is None and not doubtful:
        return
    job = {
        "kind": "vocabulary",
        "source": str(model.path),
        "name": model.name,
        "text": str(text.file) if text is not None and doubtful else None,
        "window": window,
        "chat": chat is not None,
        "thinking": None if chat is None else chat.thinking,
    }
    _refused(job, log)


def _calibrates(model: Model, text: Text, log: Path) -> None:
    """The length of a calibration text that may be too short."""
    if text.file.stat().st_size < FEWEST_TOKENS * BYTES_A_TOKEN:
        _refused(
            {"kind": "calibration", "source": str(model.path), "text": str(text.file), "text_name": text.name}, log
        )


def _refused(job: dict[str, Any], log: Path) -> None:
    """Raises InputError where a job finds the input to blame; whatever else befalls it, the cells will tell."""
    with Child(log) as child:
        for answer in child.submit(job):
            if isinstance(answer, Failed) and answer.input:
                raise InputError(answer.message)
