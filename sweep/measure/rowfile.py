"""Writes a file of rows of equal size, which appears under its name only when it is complete and on the disk."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from numpy.typing import NDArray

from converters.atomic import AtomicFile


class RowFile:
    """Writes `head` and then `rows` rows of `row_bytes` bytes to a temporary file, and renames it to `path` at the end.

    A context manager: after an error inside, no file remains. Raises InputError if the file cannot be written,
    ValueError if another number of rows was written.
    """

    def __init__(self, path: Path, head: bytes, rows: int, row_bytes: int) -> None:
        self._head, self._expected, self._row_bytes = head, rows, row_bytes
        self._file = AtomicFile(path, len(head) + rows * row_bytes, make_parents=True)
        self._rows = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._file)
            self._file.write(self._head)
            stack.pop_all()
        return self

    def append(self, rows: NDArray) -> None:
        """Write the next rows; their bytes are written unchanged."""
        data = rows.tobytes()
        if len(data) != len(rows) * self._row_bytes:
            raise ValueError(f"{self._file.path}: {len(rows)} rows of {self._row_bytes} bytes are not {len(data)}")
        self._file.write(data)
        self._rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        incomplete = None
        if kind is None and self._rows != self._expected:
            incomplete = ValueError(f"{self._file.path}: {self._rows} of {self._expected} rows were written")
        self._file.__exit__(kind if incomplete is None else ValueError, error if incomplete is None else incomplete, at)
        if incomplete is not None:
            raise incomplete
