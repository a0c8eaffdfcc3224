"""Atomic writing of a directory: it appears under its name complete, or not at all; what was begun can be resumed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.atomic import publish
from converters.errors import InputError

KEY_FILE = "resume-key"


def require_free(out: Path) -> None:
    """Raise InputError if something at `out` would be lost: anything except an empty directory."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose another place with --out, or remove it")


@contextmanager
def atomic_directory(out: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory next to `out` to write into; it becomes `out` at the end of the block.

    `replace`: a directory at `out` is removed when the new one is complete.

    A temporary directory that a killed process left behind is emptied first. Raises InputError if something is at
    `out`, if the place cannot be written, or if another process is writing there.
    """
    with _temporary_directory(out, replace) as temporary_path:
        _empty(temporary_path)
        try:
            yield temporary_path
            _publish(temporary_path, out, replace)
        except BaseException:
            shutil.rmtree(temporary_path, ignore_errors=True)
            raise


@contextmanager
def resumable_directory(out: Path, key: str, replace: bool = False) -> Iterator[Path]:
    """As `atomic_directory`, but what a killed or interrupted process left behind stays if it was made for `key`.

    `key` is a short text that states what is being written. After an error nothing stays.
    """
    with _temporary_directory(out, replace) as temporary_path:
        stated = temporary_path / KEY_FILE
        if not stated.is_file() or stated.read_text(encoding="utf-8") != key:
            _empty(temporary_path)
            stated.write_text(key, encoding="utf-8")
        try:
            yield temporary_path
            stated.unlink()
            _publish(temporary_path, out, replace)
        except Exception:
            shutil.rmtree(temporary_path, ignore_errors=True)
            raise


@contextmanager
def _temporary_directory(out: Path, replace: bool) -> Iterator[Path]:
    """The directory that becomes `out`, locked: no other process writes into it."""
    if not replace:
        require_free(out)
    temporary_path = out.with_name(f".{out.name}.partial")
    try:
        temporary_path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{out}: cannot be created: {error.strerror}") from error
    try:
        _lock(descriptor, temporary_path, out)
        yield temporary_path
    finally:
        os.close(descriptor)  # this releases the lock, as the end of the process would


def _publish(temporary_path: Path, out: Path, replace: bool) -> None:
    """Give a directory its name. What it replaces is moved aside first, because no call exchanges two directories."""
    old = out.with_name(f".{out.name}.replaced")
    if replace and out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    publish(temporary_path, out)
    shutil.rmtree(old, ignore_errors=True)


def _lock(descriptor: int, temporary_path: Path, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(temporary_path)):
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
