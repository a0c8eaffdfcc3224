"""The source of the importance matrix: a file, or a text that the model reads to collect one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import presets
from converters.errors import InputError
from converters.imatrix import ImportanceMatrix
from converters.source import Source
from sweep.jobs.imatrix import CHUNK
from sweep.measure.plain_text import text_bytes
from sweep.measure.text_form import TextForm
from sweep.measure.texts import form_of
from sweep.planning.texts import form_note

AUTO = "auto"


@dataclass(frozen=True)
class ImatrixSource:
    """Either `file`, an importance matrix, or `text`, of this `form`, to collect one from. The other is None.

    `messages` are lines for people about the matrix in `file`, or about how the text is read (see `checked`).
    """

    file: Path | None
    text: Path | None
    messages: tuple[str, ...] = ()
    form: TextForm = TextForm.PLAIN

    @property
    def name(self) -> str:
        """The source's name for people."""
        return self.file.name if self.file is not None else f"collected from {self._content.name}{self.form.suffix}"

    @property
    def identity(self) -> str:
        """A hash of the content, and of how it is read."""
        digest = hashlib.sha256(f"{CHUNK if self.file is None else 'file'}{self.form.key}".encode())
        with self._content.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    @property
    def _content(self) -> Path:
        content = self.file or self.text
        assert content is not None  # one of the two is given
        return content


def find_imatrix(
    imatrix: str | None, text: Path | None, builtin: presets.BuiltinModel | None, parse_special: bool = False
) -> ImatrixSource | None:
    """The source that --imatrix (`imatrix`: a file or "auto") and --calibration (`text`: a file, or the name of a
    built-in model for its text) choose; None without --imatrix. `parse_special`: read special tokens in the text as
    such. Raises InputError."""
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
        form = form_of(text.expanduser(), parse_special)
        if form is TextForm.IMAGES:
            raise InputError(f"{text}: has images; the text for --imatrix auto has none (--calibration)")
        return ImatrixSource(None, text.expanduser().resolve(), form=form)
    if text is not None:
        builtins = presets.builtin_models()
        if str(text) not in builtins:
            raise InputError(f"{text}: there is no such text (--calibration); give a file, or {', '.join(builtins)}")
        builtin = builtins[str(text)]
    if builtin is None:
        raise InputError("--imatrix auto needs a text that the model reads: give it with --calibration FILE")
    return ImatrixSource(None, builtin.calibration, form=form_of(builtin.calibration, parse_special))


def checked(found: ImatrixSource, source: Source, say: Callable[[str], None]) -> ImatrixSource:
    """The source of the matrix with the messages about its file or text, which are also said. Raises InputError if the
    file cannot be used, or was surely made for another model than `source`."""
    if found.file is None:
        assert found.text is not None
        note = form_note(found.text, found.form)
        if note is not None:
            say(note)
        return replace(found, messages=() if note is None else (note,))
    matrix = ImportanceMatrix.read(found.file)
    messages = (*matrix.coverage_notes, *matrix.model_notes(source, found.name))
    for line in messages:
        say(f"{found.name}: {line}")
    return replace(found, messages=messages)
