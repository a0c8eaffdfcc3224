"""The tasks of a sweep: finds the tasks that --tasks names and their data, and what their results depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import presets
from converters.errors import InputError
from images.file import SUFFIXES
from sweep.artefact import Artefact
from sweep.jobs.inputs import Task
from sweep.measure.image_tasks import members, takes_images
from sweep.measure.local_data import SEVERAL, data_files, known_data
from sweep.measure.plain_text import read_text
from sweep.measure.task_names import is_known, is_own, unknown_task
from sweep.measure.task_options import TaskOptions
from sweep.planning.model import ResolvedModel
from sweep.planning.needle import is_needle


def _found(name: str, folder: Path | None, data: Path | None, data_name: str | None, options: TaskOptions) -> Task:
    """The task with its identity: a hash of name, options and, for local tasks, of every file that may be read."""
    with_images = takes_images(name, folder)
    images = [] if not with_images else _image_files(folder or data)

    def identity(options: TaskOptions) -> str:
        digest = hashlib.sha256(json.dumps([name, options.identity], sort_keys=True).encode())
        if folder is None and is_own(name):
            _digest(digest, (file for file in sorted(presets.VISION_TASKS.iterdir()) if file.is_file()))
        if folder is not None:
            _digest(digest, (file for file in sorted(folder.iterdir()) if file.is_file()))
        if data is not None:
            sets = [(data_name or "", data)]
            if data_name == SEVERAL:
                sets = [(one, data / one) for one in sorted({known_data(member).name for member in members(name)})]
            for own, place in sets:
                form = presets.task_data().get(own)
                digest.update(repr(form and (form.forms, form.files, form.select, sorted(_needed(form)))).encode())
                _digest(digest, data_files(place))
        _digest(digest, (file for file in images if file.parent != folder))
        return digest.hexdigest()

    return Task(
        name,
        None if folder is None else Artefact.of(folder),
        None if data is None else Artefact.of(data),
        data_name,
        options,
        identity(options),
        None if options.if_nothing_is_generated == options else identity(options.if_nothing_is_generated),
        with_images,
    )


def _digest(digest: Any, files: Iterable[Path]) -> None:
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)


def _image_files(folder: Path | None) -> list[Path]:
    """The images in a folder and below it."""
    if folder is None:
        return []
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _needed(form: presets.TaskData) -> frozenset[str]:
    return form.needs.values if form.needs is not None else frozenset()


def require_known(chosen: tuple[str, ...] | None, folder: Path | None) -> None:
    """Raises InputError if `chosen` has a name that `tasks_for` would not find. No model is needed for that."""
    _require_directory(folder)
    names = [name for name, _ in _expanded(chosen or (), TaskOptions())]
    declared = [_declared(file) for place in _folders(folder) for file in sorted(place.glob("*.yaml"))]
    for name in names:
        if _is_file(name):
            _task_file(name)
        elif name not in declared and not is_needle(name) and not is_known(name):
            raise unknown_task(name, [*presets.task_lists(), *declared])


def tasks_for(
    model: ResolvedModel,
    chosen: tuple[str, ...] | None,
    options: TaskOptions,
    folder: Path | None,
    all_items: bool = False,
) -> tuple[Task, ...]:
    """The `chosen` tasks, or the model's own, or the default ones. The name `none` means no task.

    A name may be a list of presets/tasks/lists.toml, a task, group or tag of lm-eval, or a YAML file. `folder`
    (--task-data) holds YAML files of tasks with their data, which are preferred to lm-eval's own, or data sets as JSONL
    files in directories with the names of the data sets. Other tasks are lm-eval's own with data from the hub. With
    `all_items`, the default tasks and those of lists have no limit but that of the options. Raises InputError.
    """
    if options.thinking is not None and not options.chat_template:
        raise InputError("--thinking needs the chat template; leave --no-chat-template out")
    if chosen is None:
        if model.builtin is not None:
            folder = model.builtin.task_directory
            return tuple(_found(name, folder, None, None, options) for name in model.builtin.tasks)
        chosen = tuple(presets.defaults()["tasks"])
        options = replace(options, limit=options.limit or (None if all_items else presets.defaults()["limit"]))
    _require_directory(folder)
    tasks: dict[str, Task] = {}
    for name, own in _expanded(chosen, options, all_items):
        task = _task(name, own, folder)
        if tasks.setdefault(task.name, task) != task:
            raise InputError(f"task {task.name} is named twice with different settings; measure it in two runs")
    return tuple(tasks.values())


def _expanded(
    chosen: tuple[str, ...], options: TaskOptions, all_items: bool = False
) -> Iterable[tuple[str, TaskOptions]]:
    """The names of tasks with their options: the user's, or those of the list that a task comes from."""
    for name in chosen:
        known = presets.task_lists().get(name)
        if known is None:
            if name != "none":
                yield name, options
            continue
        limit = options.limit or (None if all_items else known.limit)
        for task, shots in known.tasks:
            chosen_shots = options.num_fewshot
            yield task, replace(options, limit=limit, num_fewshot=shots if chosen_shots is None else chosen_shots)


def _task(name: str, options: TaskOptions, folder: Path | None) -> Task:
    if _is_file(name):
        file = _task_file(name)
        return _found(_declared(file), file.parent, None, None, options)
    for place in _folders(folder):
        if name in (_declared(file) for file in sorted(place.glob("*.yaml"))):
            return _found(name, place.resolve(), None, None, options)
    if folder is None:
        return _found(name, None, None, None, options)
    several = {known_data(member).name for member in members(name)} if is_own(name) else set()
    present = {one for one in several if (folder / one).is_dir() and data_files(folder / one)}
    if len(several) > 1 and present:
        if missing := sorted(several - present):
            raise InputError(
                f"{folder}: {name} needs the data of {', '.join(missing)} too, each in a folder of its name"
            )
        return _found(name, None, folder.resolve(), SEVERAL, options)
    data_name = known_data(name).name
    for place in (folder / data_name, folder):
        if place.name == data_name and place.is_dir() and data_files(place):
            return _found(name, None, place.resolve(), data_name, options)
    return _found(name, None, None, None, options)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _task_file(name: str) -> Path:
    file = Path(name).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"{name}: there is no such task file")
    return file


def _folders(folder: Path | None) -> list[Path]:
    """The directories of task files: the user's, then those of the built-in models."""
    own = [] if folder is None else [folder]
    return own + [builtin.task_directory for builtin in presets.builtin_models().values()]


def _require_directory(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: there is no such directory (--task-data)")


def _declared(file: Path) -> str:
    """The task's name in its YAML file. The file is read as lines, because it uses tags that only lm-eval can load."""
    lines = (line.partition(":") for line in read_text(file).splitlines())
    names = {key: value.strip().strip("\"'") for key, _, value in lines if key in ("task", "group")}
    return names.get("group") or names.get("task") or file.stem
