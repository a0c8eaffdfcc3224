"""What can be known before any work: that tasks and texts can be had, and that the model's vocabulary suits them."""

from __future__ import annotations

from collections.abc import Sequence

from converters.errors import MissingRuntime
from int8.text import FEWEST_TOKENS
from sweep.jobs.base import Ask, Job, Nothing, Unanswered
from sweep.jobs.cell import Cell
from sweep.jobs.given import Task
from sweep.jobs.inputs import CalibrationJob, InputsJob, VocabularyJob
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.planning.inputs import FoundText
from sweep.planning.preparing import Sweep

BYTES_A_TOKEN = 8  # a text of more than so many is long enough without counting


def check_inputs(sweep: Sweep, todo: Sequence[Cell], ask: Ask) -> None:
    """Look at what the cells `todo` will read. Raises InputError where one of them could not but fail for it."""
    names = {cell.job.task.name for cell in todo if isinstance(cell.job, TaskJob)}
    tasks = [task for task in sweep.asked.tasks if task.name in names]
    text = sweep.text if any(isinstance(cell.job, TextJob) for cell in todo) else None
    _fetched(sweep, tasks, text, ask)
    calibration = sweep.calibration
    if calibration is not None and any(calibration.file in cell.job.reads for cell in todo if cell.job.making):
        _fetched(sweep, [], calibration, ask)
        if _bytes(sweep, calibration) < FEWEST_TOKENS * BYTES_A_TOKEN:
            _require(CalibrationJob(sweep.origin.source, calibration.file), ask)
    if any(variant.file_path in (None, sweep.model.path) for variant in sweep.variants):
        _suited(sweep, tasks, text, ask)


def _fetched(sweep: Sweep, tasks: Sequence[Task], text: FoundText | None, ask: Ask) -> None:
    """Tasks and texts that are not local may need a network."""
    builtin = sweep.model.builtin is not None
    foreign = [task for task in tasks if not task.is_local or not builtin or task.data]
    dataset = text.dataset if text is not None and not text.file.file.under(sweep.workspace.root).exists() else None
    if foreign or dataset is not None:
        ask(InputsJob(tuple(foreign), dataset))


def _suited(sweep: Sweep, tasks: Sequence[Task], text: FoundText | None, ask: Ask) -> None:
    """The chat template, and the length of a text that may be too short."""
    chat = next((task.options for task in tasks if task.options.chat_template), None)
    window = sweep.plan.settings.window
    doubtful = text is not None and _bytes(sweep, text) < 2 * window * BYTES_A_TOKEN
    if chat is None and not doubtful:
        return
    job = VocabularyJob(
        source=sweep.origin.source,
        name=sweep.origin.name,
        window=window,
        text=text.file.file if text is not None and doubtful else None,
        chat=chat is not None,
        thinking=None if chat is None else chat.thinking,
    )
    _require(job, ask)


def _require(job: Job[Nothing], ask: Ask) -> None:
    """Raises InputError where the job finds the input to blame; whatever else befalls it, the cells will tell."""
    try:
        ask(job)
    except (Unanswered, MissingRuntime):
        return


def _bytes(sweep: Sweep, text: FoundText) -> int:
    return text.file.file.under(sweep.workspace.root).stat().st_size
