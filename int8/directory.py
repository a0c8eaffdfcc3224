"""A directory that appears under its name complete or not at all, however the process that writes it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.atomic import publish
from converters.errors import InputError


def require_free(out: Path) -> None:
    """Raises InputError where something is at `out` that would be lost: anything but an empty directory."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; choose another place with --out, or remove it")


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """The directory to write into, beside `out`; it becomes `out` at the end of the block.

    One that a killed process left behind is emptied. Raises InputError where something is at `out`, the place cannot
    be written, or another process is writing there.
    """
    require_free(out)
    beside = out.with_name(f".{out.name}.partial")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}") from error
    try:
        _lock(descriptor, beside, out)
        try:
            _empty(beside)
            yield beside
            publish(beside, out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)  # and gives up the lock, as the end of a process does


def _lock(descriptor: int, beside: Path, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(beside)):
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    raise InputError(f"{out}: another process is writing it now; wait for it, or choose another place with --out")


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
