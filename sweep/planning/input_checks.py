"""Checks the inputs of a sweep before it starts: tasks, texts, chat template, length of the texts in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters.errors import MissingRuntime
from int8.calibration_text import FEWEST_TOKENS
from sweep.artefact import Artefact
from sweep.jobs.base import CheckPassed, Job, JobFailed, RunJob
from sweep.jobs.cell import Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.imatrix import CHUNK, ImatrixJob
from sweep.jobs.input_checks import (
    CacheCheckJob,
    CalibrationCheckJob,
    ImatrixCheckJob,
    InputCheckJob,
    LoadCheckJob,
    VocabularyCheckJob,
)
from sweep.jobs.inputs import Task
from sweep.jobs.model import MeasurementJob, opener
from sweep.jobs.prompt_check import PromptCheckJob, TemplateSource
from sweep.jobs.settings import Settings
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.jobs.token_check import Reader, TokenCheckJob, TokenSource
from sweep.measure.plain_text import read_text
from sweep.measure.text_form import TextForm
from sweep.methods.base import Variant
from sweep.planning.prepare import Sweep
from sweep.planning.texts import FoundText


def check_inputs(sweep: Sweep, todo: Sequence[Cell], run_job: RunJob) -> None:
    """Check what the cells `todo` will read. Raises InputError if one of them would certainly fail."""
    files = _gguf_files(sweep, todo)
    if files:
        run_job(LoadCheckJob(files))
    _check_caches(sweep, todo, run_job)
    for check in _imatrix_checks(sweep, todo):
        run_job(check)
    names = {cell.job.task.name for cell in todo if isinstance(cell.job, TaskJob)}
    tasks = [task for task in sweep.inputs.tasks if task.name in names]
    read = {cell.job.text for cell in todo if isinstance(cell.job, TextJob)}
    texts = [one for one in (sweep.text, *sweep.other_texts) if one is not None and one.file in read]
    in_template = [task for task in tasks if task.options.chat_template]
    _check_available(sweep, [task for task in tasks if task not in in_template], texts, run_job)
    calibration, root = sweep.calibration, sweep.workspace.root
    if calibration is not None and any(
        calibration.file in cell.job.input_texts for cell in todo if cell.job.is_preparation
    ):
        _check_available(sweep, [], [calibration], run_job)
        if maybe_short(calibration.file.file.under(root), FEWEST_TOKENS, calibration.file.form):
            _require(CalibrationCheckJob(sweep.origin.source, calibration.file), run_job)
    if _uses_origin(sweep, sweep.variants):
        _check_lengths(sweep, todo, texts, run_job)
    if in_template:
        running = {cell.variant for cell in todo if isinstance(cell.job, TaskJob)}
        sources = _template_sources(sweep, [variant for variant in sweep.variants if variant.name in running])
        _require(PromptCheckJob(sources, tuple(in_template)), run_job)
    for index, text in enumerate(texts or [None]):
        if text is not None or tasks:
            _check_tokens(sweep, todo, tasks if index == 0 else [], text, run_job)


def _uses_origin(sweep: Sweep, variants: Sequence[Variant]) -> bool:
    """Whether a variant has the tokenizer of the model, and not that of a file of its own."""
    return any(variant.file_path in (None, sweep.model.path) for variant in variants)


def _template_sources(sweep: Sweep, variants: Sequence[Variant]) -> tuple[TemplateSource, ...]:
    """The model, if variants are made from it, and the files of the others."""
    origin = [TemplateSource(sweep.origin.source, sweep.origin.name)] if _uses_origin(sweep, variants) else []
    files = [
        TemplateSource(Artefact.of(variant.file_path), variant.name)
        for variant in variants
        if variant.file_path not in (None, sweep.model.path)
    ]
    return (*origin, *files)


def _gguf_files(sweep: Sweep, todo: Sequence[Cell]) -> tuple[Artefact, ...]:
    """The GGUF files that cells read: variants that are files, and the model if quants are made from it."""
    names = {cell.variant for cell in todo}
    files = [Artefact.of(one.file_path) for one in sweep.variants if one.name in names and one.file_path is not None]
    sources = [_header(sweep, cell.job.source) for cell in todo if isinstance(cell.job, ExportJob)]
    return tuple(dict.fromkeys([*files, *(one for one in sources if Path(one.name).suffix == ".gguf")]))


def _header(sweep: Sweep, source: Artefact) -> Artefact:
    """The file that is there before the run: the copy of the header if the file itself is downloaded by a cell."""
    return sweep.origin.source if source == sweep.origin.weights else source


def _check_caches(sweep: Sweep, todo: Sequence[Cell], run_job: RunJob) -> None:
    """Check that llama.cpp can make caches of --kv-type for the models that cells measure."""
    files = {one.name: Artefact.of(one.file_path) for one in sweep.variants if one.file_path is not None}
    sources: dict[Settings, dict[Artefact, None]] = {}
    for cell in todo:
        model = cell.job.model if isinstance(cell.job, MeasurementJob) else None
        if model is None or "kv_type" not in opener(model.opener).changes_results:
            continue
        if model.settings.kv_type != Settings.kv_type:
            sources.setdefault(model.settings, {})[files.get(cell.variant, sweep.origin.source)] = None
    for settings, models in sources.items():
        _require(CacheCheckJob(tuple(models), sweep.origin.name, settings), run_job)


def _imatrix_checks(sweep: Sweep, todo: Sequence[Cell]) -> list[ImatrixCheckJob]:
    """The checks of importance matrices that no cell makes."""
    quants: dict[tuple[Artefact, str, Artefact], list[str]] = {}
    for cell in todo:
        job = cell.job
        if isinstance(job, ExportJob) and job.imatrix is not None and set(cell.needs) <= set(sweep.origin.needs):
            quants.setdefault((_header(sweep, job.source), job.name, job.imatrix), []).append(job.quant)
    return [ImatrixCheckJob(source, name, tuple(own), matrix) for (source, name, matrix), own in quants.items()]


def _check_available(sweep: Sweep, tasks: Sequence[Task], texts: Sequence[FoundText], run_job: RunJob) -> None:
    """Load tasks and download texts that are not on this machine; they may need a network."""
    builtin = sweep.model.builtin is not None
    not_built_in = [task for task in tasks if not task.is_local or not builtin or task.data]
    missing = [one.dataset for one in texts if not one.file.file.under(sweep.workspace.root).exists()]
    dataset = next((one for one in missing if one is not None), None)  # only one text is published
    if not_built_in or dataset is not None:
        run_job(InputCheckJob(tuple(not_built_in), dataset))


def _check_lengths(sweep: Sweep, todo: Sequence[Cell], texts: Sequence[FoundText], run_job: RunJob) -> None:
    """Check that texts which may be too short have enough tokens."""
    window, root = sweep.plan.settings.window, sweep.workspace.root
    imatrix = next((cell.job for cell in todo if isinstance(cell.job, ImatrixJob)), None)
    job = VocabularyCheckJob(sweep.origin.source, sweep.origin.name, window)
    for text in texts:
        if maybe_short(text.file.file.under(root), 2 * window, text.file.form):
            _require(replace(job, text=text.file.file, form=text.file.form), run_job)
    if imatrix is not None and maybe_short(imatrix.text.under(root), 2 * CHUNK, imatrix.form):
        job = replace(job, imatrix_text=imatrix.text, imatrix_form=imatrix.form)
        _require(job, run_job)


def require_collectable(
    source: Artefact, name: str, text: Path, form: TextForm, pre_tokenizer: str | None, run_job: RunJob
) -> None:
    """Raises InputError if a text is too short to collect an importance matrix with."""
    if maybe_short(text, 2 * CHUNK, form):
        job = VocabularyCheckJob(source, name, imatrix_text=Artefact.of(text), imatrix_form=form)
        _require(replace(job, pre_tokenizer=pre_tokenizer), run_job)


def maybe_short(text: Path, tokens: int, form: TextForm = TextForm.PLAIN) -> bool:
    """Whether a text may have fewer tokens than that: no token has parts of two words, but not all texts have words.

    Conversations are always read, because their lines or the chat template may be malformed.
    """
    return form in (TextForm.CONVERSATIONS, TextForm.IMAGES) or len(read_text(text).split()) < tokens


def _check_tokens(
    sweep: Sweep, todo: Sequence[Cell], tasks: Sequence[Task], text: FoundText | None, run_job: RunJob
) -> None:
    """Check that all variants, and a file of log-probabilities to compare with, have the same tokens."""
    measured = [variant for variant in sweep.variants if variant.name not in sweep.plan.skipped]
    sources: dict[tuple[Artefact, Reader], TokenSource] = {}
    for variant in measured:
        source = _token_source(sweep, variant)
        sources.setdefault((source.file, source.reader), source)
    if sweep.inputs.draft is not None:
        draft = TokenSource("the draft", sweep.origin.name, sweep.inputs.draft.file, Reader.FILE)
        sources.setdefault((draft.file, draft.reader), draft)
    made = {cell.output for cell in sweep.plan.cells}
    read = None if text is None else text.file
    jobs = [cell.job for cell in todo if isinstance(cell.job, TextJob)]
    references = {job.reference for job in jobs if job.text == read} - made - {None}
    if len(sources) < 2 and not references:
        return
    settings = sweep.plan.settings
    check = TokenCheckJob(
        tuple(sources.values()),
        text=None if text is None else text.file,
        tasks=bool(tasks),
        reference=next(iter(references), None),
        window=settings.window,
        stride=settings.stride,
    )
    try:
        run_job(check)
    except MissingRuntime:  # the cells will report it
        return
    except JobFailed:  # a file of the user that ends the process must not prevent the check of the others
        sound = tuple(source for source in check.sources if source.reader is not Reader.FILE)
        _require(replace(check, sources=sound), run_job)


def _token_source(sweep: Sweep, variant: Variant) -> TokenSource:
    origin, file = sweep.origin, variant.file_path
    if file is not None:
        return TokenSource(variant.name, origin.name, Artefact.of(file), Reader.FILE)
    reader = Reader.TORCH if opener(variant.opener).engine == "torch" else Reader.EXPORT
    return TokenSource(variant.name, origin.name, origin.source, reader)


def _require(job: Job[CheckPassed], run_job: RunJob) -> None:
    """Raises InputError if the job finds that the input is to blame. Other errors are ignored: the cells will report
    them."""
    try:
        run_job(job)
    except (JobFailed, MissingRuntime):
        return
