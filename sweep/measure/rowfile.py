"""A file of equal rows that appears under its name only when it is whole and on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from numpy.typing import NDArray

from converters.errors import InputError


class RowFile:
    """Writes `head` and then `rows` rows of `row_bytes` beside `path`, and renames it when all are there.

    A context manager: an error inside leaves nothing behind. Raises InputError where the disk refuses.
    """

    def __init__(self, path: Path, head: bytes, rows: int, row_bytes: int) -> None:
        self._path, self._head, self._expected, self._row_bytes = path, head, rows, row_bytes
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file: IO[bytes] | None = None
        self._rows = 0

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._part, "wb")
            self._write(self._head)
        except OSError as error:
            self._discard()
            raise self._refused(error) from error
        except InputError:
            self._discard()
            raise
        return self

    def append(self, rows: NDArray) -> None:
        """The next rows as they lie in the file."""
        data = rows.tobytes()
        if len(data) != len(rows) * self._row_bytes:
            raise ValueError(f"{self._path}: {len(rows)} rows of {self._row_bytes} bytes are not {len(data)}")
        self._write(data)
        self._rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            return
        if self._rows != self._expected:
            self._discard()
            raise ValueError(f"{self._path}: {self._rows} rows were given of {self._expected}")
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self._path)
            _sync_directory(self._path.parent)
        except OSError as failure:
            self._discard()
            raise self._refused(failure) from failure

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> InputError:
        size = len(self._head) + self._expected * self._row_bytes
        return InputError(f"{self._path}: cannot write the reference of {size} bytes: {error.strerror}")

    def _discard(self) -> None:
        if self._file is not None:
            try:
                self._file.close()  # flushes, so that a full disk speaks up once more; the file goes anyway
            except OSError:
                self._file = None
        self._part.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; only POSIX systems need it and can do it."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
