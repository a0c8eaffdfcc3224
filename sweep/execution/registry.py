"""The table of executors by name. To add an executor, add a line here or call `register`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from converters.errors import InputError
from sweep.execution.local import LocalExecutor, worker_environments
from sweep.execution.protocol import Executor
from sweep.extensions import load_extensions
from sweep.jobs.settings import ComputeResources


class OpenExecutor(Protocol):
    """Makes an executor for a run. `root` is the workspace's folder, `directory` the run's folder, `resources` are the
    threads and devices that the plan was made for, `workers` is the number of jobs to run at the same time."""

    def __call__(
        self, root: Path, directory: Path, resources: ComputeResources, workers: int
    ) -> AbstractContextManager[Executor]: ...


def _local(root: Path, directory: Path, resources: ComputeResources, workers: int) -> LocalExecutor:
    return LocalExecutor(root, directory, resources, worker_environments(workers))


_EXECUTORS: dict[str, OpenExecutor] = {"local": _local}


def register(name: str, opens: OpenExecutor) -> None:
    """Add an executor."""
    _EXECUTORS[name] = opens


def open_executor(
    name: str, root: Path, directory: Path, resources: ComputeResources, workers: int
) -> AbstractContextManager[Executor]:
    """Open the executor of this name for a run. Raises InputError if there is none."""
    load_extensions()
    if name not in _EXECUTORS:
        raise InputError(f"--executor {name}: there is no such executor; choose one of {', '.join(_EXECUTORS)}")
    return _EXECUTORS[name](root, directory, resources, workers)
