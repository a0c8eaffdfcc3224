"""The right answers of a task's items, to be scored after their prompts: teacher forcing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from converters.errors import InputError
from images.file import ImageFile
from sweep.backends.base import Backend, ScoreRequest
from sweep.measure.chat import ChatTemplateError
from sweep.measure.image_prompt import ChatPrompt
from sweep.measure.lm_eval_model import images_of, make_lm
from sweep.measure.lm_eval_tasks import TaskLocation, load_task, quiet
from sweep.measure.simple_evaluate import requests_of
from sweep.measure.task_options import MeasurementError, TaskOptions


@dataclass(frozen=True)
class RightAnswer:
    """An item's prompt with its right answer as the continuation. `images` are hashes of its images, "" if it has
    none."""

    request: ScoreRequest
    images: str


def right_answers(backend: Backend, task: str, location: TaskLocation, options: TaskOptions) -> list[RightAnswer]:
    """The items of a task that have a right answer, those with the same images next to one another.

    Prompts are those of `run_task`. Of several right answers the first is taken. Items that `run_task` leaves out are
    left out. Raises InputError as `run_task` does, MeasurementError if no item has an answer.
    """
    with quiet(location.offline):
        loaded = load_task(task, location, options)
        lm: Any = make_lm(backend, options)
        requests = requests_of(lm, loaded, options, options.limit)
        found = [one for request in requests for one in _answers(request, loaded.tasks[request.task_name], lm)]
    if not found:
        raise MeasurementError(f"task {task}: no item has a right answer that can be scored")
    order = {images: at for at, images in enumerate(dict.fromkeys(one.images for one in found))}
    return sorted(found, key=lambda one: order[one.images])


def _answers(request: Any, task: Any, lm: Any) -> Iterator[RightAnswer]:
    """The right answer of a request's item, if this request is the one to take it from."""
    text = _right_text(request, task)
    if not text.strip():
        return
    asked = SimpleNamespace(args=(request.args[0], text, *request.args[2:]), task_name=request.task_name)
    try:
        scored = lm.score_request(asked)
    except ChatTemplateError:
        raise
    except InputError:  # an image that cannot be used: the task itself reports it
        return
    images = [image.content for image in images_of(request.args) if isinstance(image, ImageFile)]
    yield RightAnswer(scored, " ".join(images))


def _right_text(request: Any, task: Any) -> str:
    """The text of the right answer; "" if there is none, or if another request of the item has it."""
    target = task.doc_to_target(request.doc)
    first = target[0] if isinstance(target, list) and target else target
    if task.OUTPUT_TYPE == "multiple_choice":
        if isinstance(first, str):
            choices = task.doc_to_choice(request.doc)
            first = choices.index(first) if first in choices else -1
        return str(request.args[1]) if request.idx == first else ""
    delimiter = "" if isinstance(request.args[0], ChatPrompt) else str(task.config.target_delimiter)
    return delimiter + str(first)
