"""Where importance of weights comes from: an importance matrix as a file, or a text that the model itself reads."""

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

AUTO = "auto"


@dataclass(frozen=True)
class Calibration:
    """`file` is an importance matrix; `text` what to collect one from where that is None."""

    file: Path | None
    text: Path | None

    @property
    def name(self) -> str:
        """For people."""
        return self.file.name if self.file is not None else f"collected from {self._content.name}"

    @cached_property
    def told(self) -> tuple[str, ...]:
        """What to say of a given matrix, in lines for people. Raises InputError for one that cannot be read."""
        return ImportanceMatrix.read(self.file).told if self.file is not None else ()

    @property
    def identity(self) -> str:
        """Hash of the content, and of how it is read."""
        digest = hashlib.sha256(f"{CHUNK if self.file is None else 'file'}".encode())
        with self._content.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    @property
    def _content(self) -> Path:
        found = self.file or self.text
        assert found is not None  # one of the two is given
        return found


def calibration(imatrix: str | None, text: Path | None, builtin: presets.BuiltinModel | None) -> Calibration | None:
    """What --imatrix (FILE or "auto") and --calibration (FILE, or a built-in model for its text) ask for; None for no
    importance. Raises InputError."""
    if text is not None and imatrix != AUTO:
        raise InputError("--calibration is the text that --imatrix auto collects from; give both")
    if imatrix is None:
        return None
    if imatrix != AUTO:
        file = Path(imatrix).expanduser()
        if not file.is_file():
            raise InputError(f"{imatrix}: there is no such importance matrix; give a file, or --imatrix auto")
        return Calibration(file.resolve(), None)
    if text is not None and text.expanduser().is_file():
        return Calibration(None, text.expanduser().resolve())
    if text is not None:
        builtins = presets.builtin_models()
        if str(text) not in builtins:
            raise InputError(f"{text}: there is no such text (--calibration); give a file, or {', '.join(builtins)}")
        builtin = builtins[str(text)]
    if builtin is None:
        raise InputError("--imatrix auto needs a text for the model to read: give one by --calibration FILE")
    return Calibration(None, builtin.calibration)


def tell(given: Calibration, say: Callable[[str], None]) -> None:
    """Say how much of the model a given matrix covers."""
    for line in given.told:
        say(f"{given.name}: {line}")
