"""A text that comes through a pipe: standard input, or <(COMMAND) of a shell. It can be read only once, so it is
saved."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from converters.atomic import AtomicFile
from converters.errors import InputError
from sweep.measure.plain_text import checked_text

STDIN = Path("-")


def is_pipe(path: Path) -> bool:
    """Whether the path is standard input, or exists without being a regular file or a directory."""
    return path == STDIN or (path.exists() and not path.is_file() and not path.is_dir())


def saved_text(path: Path, folder: Path, option: str) -> Path:
    """A file in `folder` with the text that the pipe gives; `option` names the pipe for the message. Raises InputError
    if there is no text, or if it is not UTF-8."""
    name = f"{option} {path}"
    content = checked_text(_without_cut_character(_content(path, name)), name)
    if not content.strip():
        raise InputError(f"{name}: no text came through the pipe")
    file = folder / f"piped-{hashlib.sha256(content).hexdigest()[:16]}.txt"
    if not file.exists():
        with AtomicFile(file, make_parents=True) as out:
            out.write(content)
    return file


def with_saved_texts(arguments: Sequence[str], files: Mapping[Path, Path]) -> tuple[str, ...]:
    """The arguments of a command with the files of saved texts (by pipe) in place of pipes, so that the run can be
    started again."""

    def named(word: str) -> str:
        option, equals, value = word.rpartition("=")
        parts = [str(files.get(Path(part.strip()), part)) for part in value.split(",")]
        return option + equals + ",".join(parts)

    return tuple(named(word) for word in arguments) if files else tuple(arguments)


@cache
def _content(path: Path, name: str) -> bytes:
    """The bytes of a pipe. They are kept, because several models can be measured on them."""
    try:
        return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from error


def _without_cut_character(content: bytes) -> bytes:
    """The text without an incomplete character at its end, where a program such as head -c cut it."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return content[: error.start]
    return content
