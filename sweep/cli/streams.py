"""Standard output and standard error of a command, whatever they are connected to.

- A closed stream is /dev/null. Otherwise the next file that is opened, such as the store, would get its number.
- An encoding other than UTF-8 gets plain signs instead of the ones that it lacks, and escapes for other characters.
- If the program that reads a stream has ended, the command ends by SIGPIPE, as other programs do.
- Any other failure to write is one line that names the stream, and exit code 2.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from sweep.cli.exits import Exit

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NAMES = {1: "standard output", 2: "standard error"}

# One column each, so that tables stay aligned. The signs of one table and its legend remain different.
PLAIN_SIGNS = {
    "–": "-",  # not measured
    "−": "-",
    "…": "~",
    "≈": "=",
    "Δ": "d",
    "≤": "<",
    "⊗": "%",  # cancelled
    "⊘": "/",
    "▲": "^",
    "▼": "v",
    "►": ">",
    "●": "*",
    "○": "o",
    "◐": "/",
    "✓": "+",
    "✗": "x",
    "─": "-",  # the line below the head of a table
    "━": "-",  # progress bars of rich
    "╸": "-",
    "╺": " ",
    "\u00a0": " ",
    "\ufffd": "?",  # for a character that cannot be printed
}
PLAIN_ERROR = "+-"  # ±


class StreamError(Exception):
    """A standard stream cannot be written. Not an OSError: libraries end the program in their own way for those."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"{name}: {error.strerror}")
        self.errno = error.errno


class _StandardFile(io.FileIO):
    """The file of a standard stream. After an error it discards what is written: the program is about to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.error: StreamError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.error is not None:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self.error = StreamError(NAMES[self.fileno()], error)
            raise self.error from error


class _StandardStream(io.TextIOWrapper):
    """A standard stream that can write any text."""

    def __init__(self, file: _StandardFile, like: TextIO | None) -> None:
        self._file = file
        super().__init__(
            io.BufferedWriter(file),
            encoding=getattr(like, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=getattr(like, "line_buffering", False),
            write_through=getattr(like, "write_through", False),
        )

    def write(self, text: str, /) -> int:
        super().write(with_plain_signs(text, self.encoding))
        return len(text)

    def check(self) -> None:
        """Write what is left. Raises StreamError if anything could not be written."""
        self.flush()
        if self._file.error is not None:
            raise self._file.error


def with_plain_signs(text: str, encoding: str) -> str:
    """The text with plain signs instead of those that the encoding lacks. What follows `±` stays in its column."""
    if text.isascii() or _has(encoding, text):
        return text
    if not _has(encoding, "±"):
        text = re.sub(r"±(\S*) (?= )", rf"{PLAIN_ERROR}\1", text).replace("±", PLAIN_ERROR)
    return text.translate({ord(sign): plain for sign, plain in PLAIN_SIGNS.items() if not _has(encoding, sign)})


def _has(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def standard_streams() -> Iterator[None]:
    """Use such streams for sys.stdout and sys.stderr. A stream that cannot be written ends the process."""
    _open_closed_streams()
    before = sys.stdout, sys.stderr
    ours = [_stream(1, sys.stdout), _stream(2, sys.stderr)]
    sys.stdout, sys.stderr = ours
    try:
        try:
            yield
        finally:
            for stream in ours:
                if isinstance(stream, _StandardStream):
                    stream.check()
    except StreamError as error:
        _end(error)
    finally:
        sys.stdout, sys.stderr = before


def _open_closed_streams() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            assert descriptor == number


def _stream(number: int, stream: TextIO | None) -> TextIO:
    """Our stream with this number; the given one if it goes elsewhere, as in a program that captures it."""
    if stream is not None:
        try:
            if stream.fileno() != number:
                return stream
        except io.UnsupportedOperation:
            return stream
        stream.flush()
    return _StandardStream(_StandardFile(number), stream)


def _end(error: StreamError) -> None:
    """End the process because of a stream that cannot be written."""
    if error.errno == errno.EPIPE:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    try:
        print(f"sweep: {error}", file=sys.stderr, flush=True)
    except StreamError:
        sys.exit(int(Exit.BAD_INPUT))  # it is standard error that cannot be written
    sys.exit(int(Exit.BAD_INPUT))
