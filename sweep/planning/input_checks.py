"""Checks the inputs of a sweep before it starts: tasks, texts, chat template, length of the texts in tokens."""

from __future__ import annotations

from collections.abc import Sequence

from converters.errors import MissingRuntime
from int8.calibration_text import FEWEST_TOKENS
from sweep.jobs.base import CheckPassed, Job, JobFailed, RunJob
from sweep.jobs.cell import Cell
from sweep.jobs.input_checks import CalibrationCheckJob, InputCheckJob, VocabularyCheckJob
from sweep.jobs.inputs import Task
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.planning.prepare import Sweep
from sweep.planning.texts import FoundText

# More than any text has on average: a text with more bytes is long enough without counting its tokens
MAX_BYTES_PER_TOKEN = 8


def check_inputs(sweep: Sweep, todo: Sequence[Cell], run_job: RunJob) -> None:
    """Check what the cells `todo` will read. Raises InputError if one of them would certainly fail."""
    names = {cell.job.task.name for cell in todo if isinstance(cell.job, TaskJob)}
    tasks = [task for task in sweep.inputs.tasks if task.name in names]
    text = sweep.text if any(isinstance(cell.job, TextJob) for cell in todo) else None
    _check_available(sweep, tasks, text, run_job)
    calibration = sweep.calibration
    if calibration is not None and any(
        calibration.file in cell.job.input_texts for cell in todo if cell.job.is_preparation
    ):
        _check_available(sweep, [], calibration, run_job)
        if _bytes(sweep, calibration) < FEWEST_TOKENS * MAX_BYTES_PER_TOKEN:
            _require(CalibrationCheckJob(sweep.origin.source, calibration.file), run_job)
    if any(variant.file_path in (None, sweep.model.path) for variant in sweep.variants):
        _check_vocabulary(sweep, tasks, text, run_job)


def _check_available(sweep: Sweep, tasks: Sequence[Task], text: FoundText | None, run_job: RunJob) -> None:
    """Load tasks and download texts that are not on this machine; they may need a network."""
    builtin = sweep.model.builtin is not None
    not_built_in = [task for task in tasks if not task.is_local or not builtin or task.data]
    dataset = text.dataset if text is not None and not text.file.file.under(sweep.workspace.root).exists() else None
    if not_built_in or dataset is not None:
        run_job(InputCheckJob(tuple(not_built_in), dataset))


def _check_vocabulary(sweep: Sweep, tasks: Sequence[Task], text: FoundText | None, run_job: RunJob) -> None:
    """Check the chat template, and the length of a text that may be too short."""
    chat = next((task.options for task in tasks if task.options.chat_template), None)
    window = sweep.plan.settings.window
    maybe_short = text is not None and _bytes(sweep, text) < 2 * window * MAX_BYTES_PER_TOKEN
    if chat is None and not maybe_short:
        return
    job = VocabularyCheckJob(
        source=sweep.origin.source,
        name=sweep.origin.name,
        window=window,
        text=text.file.file if text is not None and maybe_short else None,
        chat=chat is not None,
        thinking=None if chat is None else chat.thinking,
    )
    _require(job, run_job)


def _require(job: Job[CheckPassed], run_job: RunJob) -> None:
    """Raises InputError if the job finds that the input is to blame. Other errors are ignored: the cells will report
    them."""
    try:
        run_job(job)
    except (JobFailed, MissingRuntime):
        return


def _bytes(sweep: Sweep, text: FoundText) -> int:
    return text.file.file.under(sweep.workspace.root).stat().st_size
