"""Atomic writing: a file appears under its name complete or not at all, even if the writing process is killed.

A file is written to a temporary path in the same directory, synced to the disk and renamed. After an interrupt or on a
full disk the temporary file is removed. A killed process leaves it behind under a recognizable name
(".NAME.XXXX.part"), which `sweep.workspace` removes later.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from converters.errors import InputError

PART = ".part"
"""Ending of the names of incomplete files."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AtomicFile:
    """A context manager that writes a file: it appears as `path` at the end of the block, or not at all on an error.

    `temporary_path` is where the file is until then, for libraries that write a file by themselves. `size` (bytes) is
    the size that the message about a full disk mentions; `remedy` ends every message. Raises InputError if the file
    cannot be written.
    """

    def __init__(self, path: Path, size: int | None = None, remedy: str = "", make_parents: bool = False) -> None:
        self.path, self._size, self._remedy, self._make_parents = path, size, remedy, make_parents

    def __enter__(self) -> Self:
        with self._disk_errors():
            if self._make_parents:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(PART, f".{self.path.name}.", self.path.parent)
            self._file: IO[bytes] = os.fdopen(descriptor, "wb")
            self.temporary_path = Path(name)
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Append `data` to the file."""
        with self._disk_errors():
            self._file.write(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                with self._disk_errors():
                    self._file.close()
                    make_public(self.temporary_path)
                    sync(self.temporary_path)
                    publish(self.temporary_path, self.path)
        finally:
            with suppress(OSError):  # close() flushes the buffer, which fails again on a full disk
                self._file.close()
            self.temporary_path.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with disk_errors(self.path, self._size, self._remedy):
            yield


def write_text(path: Path, text: str, remedy: str = "") -> None:
    """Write a text file in UTF-8. Raises InputError, whose message ends with `remedy`."""
    with AtomicFile(path, remedy=remedy) as file:
        file.write(text.encode())


def write_texts(texts: Mapping[Path, str], replace: bool, remedy: str = "") -> None:
    """Write text files as `write_text` does; none, if one would replace a file of another content and `replace` is
    false. Raises InputError."""
    for path, text in texts.items():
        if not replace and loses_content(path, text):
            raise InputError(exists_already(path))
    for path, text in texts.items():
        write_text(path, text, remedy)


def loses_content(path: Path, text: str) -> bool:
    """Whether a file of another content exists at `path`, or one that cannot be read."""
    try:
        return path.is_file() and path.read_bytes() != text.encode()
    except OSError:
        return True


def exists_already(path: Path) -> str:
    """The message about a file that a command does not replace."""
    return f"{path}: a file with other content exists; choose another name, or replace it with --force"


@contextmanager
def disk_errors(path: Path, size: int | None = None, remedy: str = "") -> Iterator[None]:
    """Turn an OSError raised while `path` is written into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        ending = f"; {remedy}" if remedy else ""
        if error.errno in _FULL_DISK:
            needs = f"; this file needs {size} bytes" if size is not None else ""
            reason = f"the disk is full or a quota is reached ({error.strerror})"
            raise InputError(f"{path}: {reason}{needs}{ending}") from error
        raise InputError(f"{path}: cannot be written: {error.strerror or error}{ending}") from error


def publish(temporary_path: Path, path: Path) -> None:
    """Rename a file or directory to its final name, and sync its parent so that the rename survives a power failure."""
    os.replace(temporary_path, path)
    sync(path.parent)


def make_public(path: Path | int) -> None:
    """Give a file from mkstemp, which only its owner may read, the permissions of an ordinary new file."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a directory, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
