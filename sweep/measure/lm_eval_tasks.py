"""Finds and loads tasks of lm-eval: its own tasks, tasks from a directory of YAML files, or its own with local data.

Some parts of lm-eval are replaced while a task is loaded or run: those that start programs, that use the network
without need, or that read 14,000 files to find one name.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import InputError
from converters.hub_reachable import is_reachable
from presets import Needs, TaskData, task_data
from sweep.measure import task_names
from sweep.measure.code_eval import replaced_code_eval, runs_restricted
from sweep.measure.hub_access import hub_access, is_of_connection, unreachable
from sweep.measure.item_images import ItemImages, image_columns, undecoded
from sweep.measure.local_data import LocalData
from sweep.measure.task_options import TaskOptions

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class TaskLocation:
    """Where a task and its data come from.

    `yaml` is a directory of task files; None: lm-eval's own tasks. `data` is a directory with the data set of one of
    lm-eval's own tasks; None: the data set is downloaded. With either of them the network is not used. `data_name` is
    the data set's name in presets/tasks/data.toml.
    """

    yaml: Path | None = None
    data: Path | None = None
    data_name: str | None = None

    @property
    def local(self) -> LocalData | None:
        if self.data is None:
            return None
        name = self.data_name or self.data.name
        return LocalData(self.data, task_data().get(name) or TaskData(name))

    def folder_of(self, config: dict[str, Any]) -> Path | None:
        """The folder of a task's own files or data; None if its data are in none."""
        local = self.local
        return self.yaml if self.yaml is not None or local is None else local.of(config).folder

    @property
    def offline(self) -> bool:
        return self.yaml is not None or self.data is not None


@dataclass(frozen=True)
class LoadedTask:
    """A task or group with its data.

    `root` is the task, or the group that contains all `tasks`. `tasks` are the tasks without sub-tasks, by name.
    `left_out` is the number of items of each task that cannot be scored on this machine. `unusable` says what is wrong
    with further items, which lm-eval does not get: by task and number of the document.
    """

    root: Task | Group
    name: str
    tasks: dict[str, Task]
    left_out: dict[str, int]
    manager: TaskManager
    unusable: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def pixels(self) -> tuple[int | None, int | None] | None:
        """The limits of pixels that the tasks with images state; None without such tasks, or if they differ."""
        stated = {_pixels(task) for task in self.tasks.values() if getattr(task, "MULTIMODAL", False)}
        return stated.pop() if len(stated) == 1 else None

    def leave_out(self, reasons: Mapping[tuple[str, int], str], limit: int | None) -> None:
        """Go on without these items. Raises InputError if none of a task's first `limit` items remains."""
        for (name, number), reason in reasons.items():
            if not any(known == name for known, _ in self.unusable):
                self._skip_unusable(name)
            item = f"item {number}" if len(self.tasks) == 1 else f"item {number} of {name}"
            self.unusable[name, number] = f"{item}: {reason}"
        for name in {name for name, _ in reasons}:
            task = self.tasks[name]
            if next(iter(task.doc_iterator(limit=limit)), None) is None:
                first = next(reason for (known, _), reason in self.unusable.items() if known == name)
                raise InputError(f"task {name}: no item of it can be measured; {first}")

    def _skip_unusable(self, name: str) -> None:
        task = self.tasks[name]
        documents = task.doc_iterator
        task.doc_iterator = lambda **which: (
            (number, document) for number, document in documents(**which) if (name, number) not in self.unusable
        )


def load_task(task: str, location: TaskLocation, options: TaskOptions) -> LoadedTask:
    """Load a task, group or tag with its data. Call it within `quiet`.

    Raises InputError if the task or its data is not available, or if the task must not be run (`_validate`).
    """
    manager = _manager(task, location)
    left_out: dict[str, int] = {}
    manager._factory = _factory_class()(location.local, options, left_out)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # task modules print
            loaded = manager.load([task])
    except InputError:
        raise
    except Exception as error:  # a task's file contains code, which can fail in any way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if is_of_connection(error) and not location.offline and not is_reachable():
            reason = f"{unreachable()} ({reason})"
        remedy = (
            "" if location.offline else "; give its data with --task-data, or choose other tasks, or none, with --tasks"
        )
        raise InputError(f"task {task}: the task or its data cannot be loaded: {reason}{remedy}") from error
    tasks: dict[str, Task] = loaded["tasks"]
    groups = loaded["groups"]
    root = groups.get(task) or next(iter(tasks.values()))
    if groups or len(tasks) > 1:
        root = _with_aggregates(task, root, tasks)
    for leaf in tasks.values():
        _validate(leaf, options)
        if getattr(leaf, "MULTIMODAL", False):
            leaf.doc_to_image = _images(leaf, location)
    return LoadedTask(root, _name(root), tasks, left_out, manager)


def _images(task: Task, location: TaskLocation) -> ItemImages:
    decodes = callable(task.config.doc_to_image)
    columns = tuple(image_columns(task.task_docs))
    folder = location.folder_of({"task": task.config.task, "dataset_name": task.config.dataset_name})
    return ItemImages(task.doc_to_image, folder, _pixels(task), columns, decodes=decodes)


def _pixels(task: Task) -> tuple[int | None, int | None]:
    """The limits of pixels that a task's file states for its images."""
    stated = getattr(task.config, "metadata", None) or {}
    return stated.get("min_pixels"), stated.get("max_pixels")


def _name(root: Task | Group) -> str:
    return str(root.task_name if hasattr(root, "task_name") else root.name)


def _with_aggregates(task: str, root: Task | Group, tasks: dict[str, Task]) -> Group:
    """`root` if it is a group that aggregates its sub-tasks; otherwise a new group that does.

    The new group, for a tag or a group without aggregation, weights the sub-tasks by their number of items.
    """
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    if isinstance(root, Group) and root.has_aggregation:
        return root
    shared = [m for m in next(iter(tasks.values())).aggregation() if all(m in t.aggregation() for t in tasks.values())]
    if not shared:
        raise InputError(f"task {task}: its sub-tasks have no common metric; name the sub-tasks one by one")
    group = Group(name=task, aggregate_metric_list=[AggMetricConfig(metric) for metric in shared])
    for leaf in tasks.values():
        group.add(leaf)
    return group


def _validate(task: Task, options: TaskOptions) -> None:
    """Raise InputError for a task whose results are not comparable, or that is not supported or not allowed."""
    name, config = task.task_name, task.config
    if getattr(config, "doc_to_audio", None) is not None:
        raise InputError(f"task {name}: it uses sound; only tasks with text and images can be measured")
    if getattr(task, "MULTIMODAL", False):
        if getattr(config, "doc_to_image", None) is None:
            raise InputError(f"task {name}: it has images in another way than doc_to_image, which is not supported")
        own = getattr(config, "num_fewshot", None)  # a task that fixes 0 examples keeps 0
        if own != 0 and (options.num_fewshot or own):
            raise InputError(f"task {name}: examples with images are not supported; use --num-fewshot 0")
    if getattr(task, "UNSAFE_CODE", False):
        if not runs_restricted(config):
            raise InputError(f"task {name}: it runs code that the model writes, without the restrictions of code_eval")
        if not options.allow_code:
            raise InputError(f"task {name}: it runs code that the model writes; --allow-code-execution allows that")
    if task.OUTPUT_TYPE == "generate_until":
        if (getattr(config, "generation_kwargs", None) or {}).get("do_sample"):
            raise InputError(f"task {name}: it samples its answers; only greedy decoding gives comparable results")
    elif options.thinking:
        raise InputError(f"task {name}: a multiple-choice task cannot run with --thinking on; use --thinking off")


def _manager(task: str, location: TaskLocation) -> TaskManager:
    """A manager that knows the task. Indexing all of lm-eval's files takes seconds; one directory takes no time."""
    if location.yaml is not None:
        manager = _indexed(location.yaml)
        if task not in manager.task_index:
            raise InputError(f"unknown task {task!r}; known in {location.yaml}: {', '.join(manager.all_tasks)}")
        return manager
    for folder in _folders(task):
        manager = _indexed(folder)
        if _is_whole(manager, task):
            return manager
    if not task_names.is_known(task) or task not in (manager := _indexed(None)).task_index:
        raise task_names.unknown_task(task)
    return manager


@functools.lru_cache(maxsize=8)
def _indexed(folder: Path | None) -> TaskManager:
    """The manager of a directory of task files, or of all of lm-eval's own."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: no such directory of task files")
    return TaskManager(include_path=folder, include_defaults=folder is None)


def _folders(task: str) -> Iterator[Path]:
    """Directories of lm-eval that may declare `task`: the most likely ones first, the certain one last."""
    yield from task_names.likely_folders(task)
    found = task_names.folder_of(task)
    if found is not None:
        yield found


def _is_whole(manager: TaskManager, task: str) -> bool:
    """Whether the manager knows the task and, for a group, all its members."""
    entry = manager.task_index.get(task)
    if entry is None:
        return False
    members = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else list(entry.tags)
    if entry.kind.name not in ("GROUP", "TAG") or not isinstance(members, list):
        return True
    names = [member if isinstance(member, str) else member.get("task") or member.get("group") for member in members]
    return all(isinstance(name, str) and _is_whole(manager, name) for name in names)


@functools.cache
def _factory_class() -> type[Any]:
    """The class is created when lm_eval is first used."""
    from lm_eval.tasks._factory import TaskFactory
    from lm_eval.tasks._yaml_loader import load_yaml

    class Factory(TaskFactory):
        """Loads a task's code without the network, and replaces its data set by local data."""

        def __init__(self, local: LocalData | None, options: TaskOptions, left_out: dict[str, int]) -> None:
            super().__init__()
            self._local, self._options, self._left_out = local, options, left_out

        def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
            plain = load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else dict(entry.cfg or {})
            needs = next(
                (data.needs for data in task_data().values() if data.dataset == plain.get("dataset_path")), None
            )
            with replaced_code_eval(bool(plain.get("unsafe_code"))), _no_download(needs):
                config: dict[str, Any] = super()._load_full_config(entry, overrides)
            if not isinstance(config.get("task"), str) or "class" in config or "group" in config:
                return config
            if self._local is not None:
                config = self._local.replace_data_set(config, self._options.num_fewshot)
            if needs is not None and not _has(needs.resource):
                config["process_docs"] = self._without(needs, config)
            if config.get("doc_to_image") is not None:
                config["process_docs"] = _with_undecoded_images(config.get("process_docs"))
            return config

        def _without(self, needs: Needs, config: dict[str, Any]) -> Any:
            prepare, name = config.get("process_docs"), config["task"]

            def process_docs(documents: Any) -> Any:
                documents = documents if prepare is None else prepare(documents)
                usable = [i for i, values in enumerate(documents[needs.field]) if needs.values.isdisjoint(values)]
                self._left_out[name] = len(documents) - len(usable)
                return documents.select(usable)

            return process_docs

    return Factory


def _with_undecoded_images(prepare: Any) -> Any:
    """`prepare`, a task's preparation of items, with images as bytes: a damaged one costs only its own item."""

    def process_docs(documents: Any) -> Any:
        documents = undecoded(documents)
        return documents if prepare is None else prepare(documents)

    return process_docs


def _has(resource: str) -> bool:
    """Whether nltk finds a resource on this machine."""
    import nltk

    try:
        nltk.data.find(resource)
    except LookupError:
        return False
    return True


@contextmanager
def _no_download(needs: Needs | None) -> Iterator[None]:
    """Within this context nltk downloads nothing: the checker of a task would, when it is imported."""
    if needs is None:
        yield
        return
    try:
        import immutabledict  # noqa: F401
        import langdetect
        import nltk
    except ImportError as error:
        raise InputError(f"the checker of this task needs {error.name}; pip install 'lm-eval[ifeval]'") from error
    langdetect.DetectorFactory.seed = 0  # it uses random numbers: two checks of the same answer could differ
    saved, nltk.download = nltk.download, lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = saved


class _AdviceFilter(logging.Filter):
    """Drops the advice that lm-eval logs about its own task files and about options that the user set."""

    PHRASES = ("Custom kwargs can be passed to", "is defined, but", "Overwriting default num_fewshot")

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(phrase in str(record.msg) for phrase in self.PHRASES)


@contextmanager
def quiet(offline: bool) -> Iterator[None]:
    """Replace parts of lm-eval that write to the terminal, start programs, or repeat the same work.

    With `offline` the clients of the Hugging Face hub do not connect, nor if it cannot be reached.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's bootstrap would start a process per core
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.utils

    replaced: list[tuple[Any, str, Any]] = [
        (lm_eval.api.task, "tqdm", lambda documents, **_: documents),
        # pip, lscpu and git are run to describe the machine, which is not used here and takes seconds per task
        (lm_eval.evaluator, "add_env_info", lambda results: None),
        (lm_eval.evaluator, "get_git_commit_hash", lambda: None),
        (lm_eval.evaluator, "LMEVAL_HASHMM", False),  # it would copy all items, to replace decoded images by hashes
        # a task's few templates are compiled again for every document: most of the time of a task with a small model
        (lm_eval.utils.env, "from_string", functools.lru_cache(maxsize=64)(lm_eval.utils.env.from_string)),
    ]
    advice = _AdviceFilter()
    loggers = [logging.getLogger(name) for name in ("lm_eval.api.task", "lm_eval.evaluator")]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for logger in loggers:
        logger.addFilter(advice)
    datasets.disable_progress_bars()
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        with hub_access(allowed=not offline):
            yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)
        for logger in loggers:
            logger.removeFilter(advice)
