"""Answers what the screens ask the command line in this process, which saves the imports of a new one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import call

from sweep.commands import launch
from sweep.commands.launch import CommandCancelled

_PROCESS_IS_FREE = threading.Lock()  # `call` redirects the standard streams of the process: one command at a time


@contextmanager
def answered_here() -> Iterator[None]:
    """Run commands of the screens in the thread that asks."""
    streams = sys.stdout, sys.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_run_process", _answer)
        yield
    with _PROCESS_IS_FREE:  # a command that was asked last may still run, and puts back the streams of the application
        sys.stdout, sys.stderr = streams


def _answer(
    arguments: Sequence[str], directory: str | None, is_cancelled: Callable[[], bool]
) -> subprocess.CompletedProcess[str]:
    assert directory is None or Path(directory) == Path(os.getcwd())
    while not _PROCESS_IS_FREE.acquire(timeout=0.05):
        if is_cancelled():
            raise CommandCancelled
    try:
        if is_cancelled():
            raise CommandCancelled
        done = call(*arguments)
    finally:
        _PROCESS_IS_FREE.release()
    if is_cancelled():
        raise CommandCancelled
    return done
