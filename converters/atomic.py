"""Files that appear under their name complete or not at all, whatever ends the process that writes them.

A file is written beside its name, brought to the disk and renamed. What an interrupt or a full disk leaves is removed;
what a killed process leaves has a name of its own (".NAME.XXXX.part") that `sweep.workspace` tidies away.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from converters.errors import InputError

PART = ".part"
"""How the names of files end that are not complete."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WholeFile:
    """A file on its way to `path`: a context manager, at whose end it has its name; an error inside leaves nothing.

    `beside` is where it is until then, for libraries that write a file by themselves. `size` (bytes) is what the
    message about a full disk says that it needs, `remedy` ends any message. Raises InputError where the disk refuses.
    """

    def __init__(self, path: Path, size: int | None = None, remedy: str = "", make_parents: bool = False) -> None:
        self.path, self._size, self._remedy, self._make_parents = path, size, remedy, make_parents

    def __enter__(self) -> Self:
        with self._explained():
            if self._make_parents:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(PART, f".{self.path.name}.", self.path.parent)
            self._file: IO[bytes] = os.fdopen(descriptor, "wb")
            self.beside = Path(name)
        return self

    def write(self, data: bytes | memoryview) -> None:
        """More of the file."""
        with self._explained():
            self._file.write(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                with self._explained():
                    self._file.close()
                    make_public(self.beside)
                    sync(self.beside)
                    publish(self.beside, self.path)
        finally:
            with suppress(OSError):  # closing writes what is left, so that a full disk speaks up once more
                self._file.close()
            self.beside.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with disk_errors(self.path, self._size, self._remedy):
            yield


def write_text(path: Path, text: str, remedy: str = "") -> None:
    """Write a text file in UTF-8. Raises InputError, whose message ends with `remedy`."""
    with WholeFile(path, remedy=remedy) as file:
        file.write(text.encode())


@contextmanager
def disk_errors(path: Path, size: int | None = None, remedy: str = "") -> Iterator[None]:
    """Turn what the system says of a file that is written into an InputError that names it."""
    try:
        yield
    except OSError as error:
        ending = f"; {remedy}" if remedy else ""
        if error.errno in _FULL_DISK:
            needs = f"; this file needs {size} bytes" if size is not None else ""
            reason = f"the disk is full or a quota is reached ({error.strerror})"
            raise InputError(f"{path}: {reason}{needs}{ending}") from error
        raise InputError(f"{path}: cannot be written: {error.strerror or error}{ending}") from error


def publish(beside: Path, path: Path) -> None:
    """Give a file or directory its name, and let that outlive a power cut."""
    os.replace(beside, path)
    sync(path.parent)


def make_public(path: Path | int) -> None:
    """Let a file of mkstemp's, which only its owner can read, have the rights of any other."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def sync(path: Path) -> None:
    """Let a file, or the names in a directory, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
