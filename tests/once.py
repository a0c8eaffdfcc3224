"""What takes long to make and is only read: made once for all workers of pytest-xdist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of this test run as `make` filled it, in whichever worker came first; others wait for it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # each worker's own lies in that of the run
    directory, made = shared / name, shared / f"{name}.made"
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(directory, ignore_errors=True)  # of a worker in which `make` failed
            directory.mkdir()
            make(directory)
            made.touch()
    return directory
