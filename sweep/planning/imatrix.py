"""The source of the importance matrix: a file, or a text that the model reads to collect one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import presets
from converters.errors import InputError
from converters.imatrix import ImportanceMatrix
from sweep.jobs.imatrix import CHUNK
from sweep.measure.plain_text import text_bytes

AUTO = "auto"


@dataclass(frozen=True)
class ImatrixSource:
    """Either `file`, an importance matrix, or `text`, the text to collect one from. The other is None."""

    file: Path | None
    text: Path | None

    @property
    def name(self) -> str:
        """The source's name for people."""
        return self.file.name if self.file is not None else f"collected from {self._content.name}"

    @cached_property
    def messages(self) -> tuple[str, ...]:
        """Lines for people about the matrix in `file`. Raises InputError if it cannot be read."""
        return ImportanceMatrix.read(self.file).coverage_notes if self.file is not None else ()

    @property
    def identity(self) -> str:
        """A hash of the content, and of how it is read."""
        digest = hashlib.sha256(f"{CHUNK if self.file is None else 'file'}".encode())
        with self._content.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    @property
    def _content(self) -> Path:
        content = self.file or self.text
        assert content is not None  # one of the two is given
        return content


def find_imatrix(imatrix: str | None, text: Path | None, builtin: presets.BuiltinModel | None) -> ImatrixSource | None:
    """The source that --imatrix (`imatrix`: a file or "auto") and --calibration (`text`: a file, or the name of a
    built-in model for its text) choose; None without --imatrix. Raises InputError."""
    if text is not None and imatrix != AUTO:
        raise InputError("--calibration is the text for --imatrix auto; give both options")
    if imatrix is None:
        return None
    if imatrix != AUTO:
        file = Path(imatrix).expanduser()
        if not file.is_file():
            raise InputError(f"{imatrix}: there is no such importance matrix; give a file, or --imatrix auto")
        return ImatrixSource(file.resolve(), None)
    if text is not None and text.expanduser().is_file():
        text_bytes(text.expanduser())  # a file that is no text is an error before any work
        return ImatrixSource(None, text.expanduser().resolve())
    if text is not None:
        builtins = presets.builtin_models()
        if str(text) not in builtins:
            raise InputError(f"{text}: there is no such text (--calibration); give a file, or {', '.join(builtins)}")
        builtin = builtins[str(text)]
    if builtin is None:
        raise InputError("--imatrix auto needs a text that the model reads: give it with --calibration FILE")
    return ImatrixSource(None, builtin.calibration)


def report_messages(source: ImatrixSource, say: Callable[[str], None]) -> None:
    """Say how much of the model the matrix in the user's file covers."""
    for line in source.messages:
        say(f"{source.name}: {line}")
