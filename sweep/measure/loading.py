"""Tasks of lm-eval found and loaded: its own, a directory of YAML files, or its own over local data.

What in lm-eval starts programs, asks the network unbidden or indexes 14,000 files for one name is put aside meanwhile.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import InputError
from presets import Needs, TaskData, task_data
from sweep.measure.code_eval import code_eval_in_place, runs_restricted
from sweep.measure.local_data import LocalData
from sweep.measure.options import TaskOptions

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

_DECLARED = re.compile(rb'^["\']?(?:task|group)["\']?\s*:\s*["\']?([^\s"\'#\[]+)', re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """Where a task comes from: the task files of a directory (`yaml`), or lm-eval's own, with their data in `data`.

    With either no network is touched. `data_name` is the data set's name in presets/tasks/data.toml.
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

    @property
    def offline(self) -> bool:
        return self.yaml is not None or self.data is not None


@dataclass(frozen=True)
class Loaded:
    """`root` is a task or the group of all `tasks`; `left_out` counts the items of each that cannot be scored here."""

    root: Task | Group
    name: str
    tasks: dict[str, Task]
    left_out: dict[str, int]
    manager: TaskManager


def load(task: str, place: Place, options: TaskOptions) -> Loaded:
    """Load a task, group, tag or YAML path with its data. Raises InputError where it cannot be had or must not be run.

    To be called within `quiet`.
    """
    manager = _manager(task, place)
    left_out: dict[str, int] = {}
    manager._factory = _factory_class()(place.local, options, left_out)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # task modules print
            loaded = manager.load([task])
    except InputError:
        raise
    except Exception as error:  # a task's file holds code, which can fail in any way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        remedy = "" if place.offline else "; give its data with --task-data, or other tasks (or none) with --tasks"
        raise InputError(f"task {task}: it cannot be loaded, or its data cannot be had: {reason}{remedy}") from error
    tasks: dict[str, Task] = loaded["tasks"]
    groups = loaded["groups"]
    root = groups.get(task) or _path_group(task, groups) or next(iter(tasks.values()))
    if groups or len(tasks) > 1:
        root = _with_aggregates(task, root, tasks)
    for leaf in tasks.values():
        _vet(leaf, options)
    return Loaded(root, _name(root), tasks, left_out, manager)


def _name(root: Task | Group) -> str:
    return str(root.task_name if hasattr(root, "task_name") else root.name)


def _path_group(task: str, groups: dict[str, Group]) -> Group | None:
    """The outermost group of a YAML file."""
    return next(iter(groups.values()), None) if task.endswith((".yaml", ".yml")) else None


def _with_aggregates(task: str, root: Task | Group, tasks: dict[str, Task]) -> Group:
    """`root` where it sums its sub-tasks up; else (a tag, a group without) a group that weights them by size."""
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    if isinstance(root, Group) and root.has_aggregation:
        return root
    shared = [m for m in next(iter(tasks.values())).aggregation() if all(m in t.aggregation() for t in tasks.values())]
    if not shared:
        raise InputError(f"task {task}: its sub-tasks have no metric in common; ask for them one by one")
    group = Group(name=task, aggregate_metric_list=[AggMetricConfig(metric) for metric in shared])
    for leaf in tasks.values():
        group.add(leaf)
    return group


def _vet(task: Task, options: TaskOptions) -> None:
    """Refuse what is not comparable, not possible or not allowed."""
    name, config = task.task_name, task.config
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"task {name}: it shows pictures or sound, and only text is measured")
    if getattr(task, "UNSAFE_CODE", False):
        if not runs_restricted(config):
            raise InputError(f"task {name}: it runs code that the model writes by means of its own, unrestricted")
        if not options.allow_code:
            raise InputError(f"task {name}: it runs code that the model writes; allow that by --allow-code-execution")
    if task.OUTPUT_TYPE == "generate_until":
        if (getattr(config, "generation_kwargs", None) or {}).get("do_sample"):
            raise InputError(f"task {name} samples; only greedy decoding is comparable")
    elif options.thinking:
        raise InputError(f"task {name} scores given answers, before which no thinking is done; use --thinking off")


def _manager(task: str, place: Place) -> TaskManager:
    """One that knows the task. Indexing lm-eval's own files takes seconds, a directory of a few takes none."""
    if place.yaml is not None:
        manager = _indexed(place.yaml)
        if task not in manager.task_index and not Path(task).is_file():
            raise InputError(f"unknown task {task!r}; known in {place.yaml}: {', '.join(manager.all_tasks)}")
        return manager
    if Path(task).is_file():
        return _indexed(Path(task).parent)
    for folder in _folders(task):
        manager = _indexed(folder)
        if _is_whole(manager, task):
            return manager
    manager = _indexed(None)
    if task not in manager.task_index:
        near = difflib.get_close_matches(task, manager.all_tasks, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "lm_eval ls tasks lists all"
        raise InputError(f"unknown task {task!r}; {hint}")
    return manager


@functools.lru_cache(maxsize=8)
def _indexed(folder: Path | None) -> TaskManager:
    """The manager of a directory, or of all that lm-eval has."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: no such directory of task files")
    return TaskManager(include_path=folder, include_defaults=folder is None)


def _folders(task: str) -> Iterator[Path]:
    """Directories of lm-eval's own that may declare `task`, the likeliest first, the certain one last."""
    spec = importlib.util.find_spec("lm_eval.tasks")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    home = Path(spec.submodule_search_locations[0])
    for name in dict.fromkeys((task, task.partition("_")[0], task.partition("-")[0])):
        if name and "/" not in name and (home / name).is_dir():
            yield home / name
    found = _declarations(home).get(task)
    if found is not None:
        yield found


@functools.cache
def _declarations(home: Path) -> dict[str, Path]:
    """Name -> directory of every task and group, read as lines: six times faster than as YAML."""
    return {
        name.decode(): Path(folder)
        for folder, _, files in os.walk(home)
        for file in files
        if file.endswith(".yaml")
        for name in _DECLARED.findall(Path(folder, file).read_bytes())
    }


def _is_whole(manager: TaskManager, task: str) -> bool:
    """Whether the task and, of a group, all its members are known to the manager."""
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
    """Made when lm_eval is first wanted."""
    from lm_eval.tasks._factory import TaskFactory
    from lm_eval.tasks._yaml_loader import load_yaml

    class Factory(TaskFactory):
        """Lets a task's code load without the network, and puts local data in the place of the data set."""

        def __init__(self, local: LocalData | None, options: TaskOptions, left_out: dict[str, int]) -> None:
            super().__init__()
            self._local, self._options, self._left_out = local, options, left_out

        def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
            plain = load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else dict(entry.cfg or {})
            needs = next((d.needs for d in task_data().values() if d.dataset == plain.get("dataset_path")), None)
            with code_eval_in_place(bool(plain.get("unsafe_code"))), _no_download(needs):
                config: dict[str, Any] = super()._load_full_config(entry, overrides)
            if not isinstance(config.get("task"), str) or "class" in config or "group" in config:
                return config
            if self._local is not None:
                config = self._local.over(config, self._options.num_fewshot)
            if needs is not None and not _has(needs.resource):
                config["process_docs"] = self._without(needs, config)
            return config

        def _without(self, needs: Needs, config: dict[str, Any]) -> Any:
            prepare, name = config.get("process_docs"), config["task"]

            def process_docs(documents: Any) -> Any:
                documents = documents if prepare is None else prepare(documents)
                kept = [i for i, values in enumerate(documents[needs.field]) if needs.values.isdisjoint(values)]
                self._left_out[name] = len(documents) - len(kept)
                return documents.select(kept)

            return process_docs

    return Factory


def _has(resource: str) -> bool:
    """Whether nltk has a resource on this machine."""
    import nltk

    try:
        nltk.data.find(resource)
    except LookupError:
        return False
    return True


@contextmanager
def _no_download(needs: Needs | None) -> Iterator[None]:
    """While a checker that wants a resource of nltk is imported: it would fetch it from the network."""
    if needs is None:
        yield
        return
    try:
        import immutabledict  # noqa: F401
        import langdetect
        import nltk
    except ImportError as error:
        raise InputError(f"the checker of this task needs {error.name}; pip install 'lm-eval[ifeval]'") from error
    langdetect.DetectorFactory.seed = 0  # it guesses by chance: two runs of one answer would differ
    saved, nltk.download = nltk.download, lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = saved


class _Expected(logging.Filter):
    """Drops advice that lm-eval gives on its own task files, and on what was asked for."""

    PHRASES = ("Custom kwargs can be passed to", "is defined, but", "Overwriting default num_fewshot")

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(phrase in str(record.msg) for phrase in self.PHRASES)


@contextmanager
def quiet(offline: bool) -> Iterator[None]:
    """Put aside what in lm-eval writes to the terminal, starts programs, or does the same work over and over.

    With `offline` the hub's clients refuse to connect.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's bootstrap would start a process for every core
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import huggingface_hub.constants
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.utils

    replaced: list[tuple[Any, str, Any]] = [
        (lm_eval.api.task, "tqdm", lambda documents, **_: documents),
        # pip, lscpu and git are run for a description of the machine that is not used here: seconds a task
        (lm_eval.evaluator, "add_env_info", lambda results: None),
        (lm_eval.evaluator, "get_git_commit_hash", lambda: None),
        # a task's few templates are compiled anew for every document: most of the time of a small model's task
        (lm_eval.utils.env, "from_string", functools.lru_cache(maxsize=64)(lm_eval.utils.env.from_string)),
    ]
    if offline:
        replaced += [(datasets.config, "HF_HUB_OFFLINE", True), (huggingface_hub.constants, "HF_HUB_OFFLINE", True)]
    expected = _Expected()
    loggers = [logging.getLogger(name) for name in ("lm_eval.api.task", "lm_eval.evaluator")]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for logger in loggers:
        logger.addFilter(expected)
    datasets.disable_progress_bars()
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)
        for logger in loggers:
            logger.removeFilter(expected)
