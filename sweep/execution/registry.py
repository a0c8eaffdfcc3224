"""Every executor by its name. One is added by its line here, or by `register`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from converters.errors import InputError
from sweep.execution.local import LocalExecutor, environments
from sweep.execution.protocol import Executor
from sweep.extensions import load_extensions
from sweep.jobs.settings import Where


class Opens(Protocol):
    """Makes an executor for a run: `root` is the workspace, `directory` that of the run, `where` what its plan was made
    for, `workers` how many jobs are to run side by side."""

    def __call__(self, root: Path, directory: Path, where: Where, workers: int) -> AbstractContextManager[Executor]: ...


def _local(root: Path, directory: Path, where: Where, workers: int) -> LocalExecutor:
    return LocalExecutor(root, directory, where, environments(workers))


_EXECUTORS: dict[str, Opens] = {"local": _local}


def register(name: str, opens: Opens) -> None:
    """Add an executor."""
    _EXECUTORS[name] = opens


def open_executor(
    name: str, root: Path, directory: Path, where: Where, workers: int
) -> AbstractContextManager[Executor]:
    """Raises InputError where there is none of this name."""
    load_extensions()
    if name not in _EXECUTORS:
        raise InputError(f"--executor {name}: there is no such executor; known are {', '.join(_EXECUTORS)}")
    return _EXECUTORS[name](root, directory, where, workers)
