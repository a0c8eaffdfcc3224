"""A file of equal rows that appears under its name only when it is whole and on the disk."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from numpy.typing import NDArray

from converters.atomic import WholeFile


class RowFile:
    """Writes `head` and then `rows` rows of `row_bytes` beside `path`, and renames it when all are there.

    A context manager: an error inside leaves nothing behind. Raises InputError where the disk refuses.
    """

    def __init__(self, path: Path, head: bytes, rows: int, row_bytes: int) -> None:
        self._head, self._expected, self._row_bytes = head, rows, row_bytes
        self._file = WholeFile(path, len(head) + rows * row_bytes, make_parents=True)
        self._rows = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._file)
            self._file.write(self._head)
            stack.pop_all()
        return self

    def append(self, rows: NDArray) -> None:
        """The next rows as they lie in the file."""
        data = rows.tobytes()
        if len(data) != len(rows) * self._row_bytes:
            raise ValueError(f"{self._file.path}: {len(rows)} rows of {self._row_bytes} bytes are not {len(data)}")
        self._file.write(data)
        self._rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        lacking = None
        if kind is None and self._rows != self._expected:
            lacking = ValueError(f"{self._file.path}: {self._rows} rows were given of {self._expected}")
        self._file.__exit__(kind if lacking is None else ValueError, error if lacking is None else lacking, at)
        if lacking is not None:
            raise lacking
