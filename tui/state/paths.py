"""Names of directories and files that begin with a typed path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

MOST = 200  # names that are listed


def is_path(text: str) -> bool:
    """Whether the text is written as a path, and not as a name or a hub id."""
    return text.startswith(("/", "./", "../", "~")) or text in (".", "..")


def completions(typed: str, endings: Sequence[str]) -> list[tuple[str, str]]:
    """Directories and files with these endings whose paths begin with `typed`, as it is written, and what they are.

    Hidden names only if the text begins one. Empty if the directory cannot be read.
    """
    head, slash, start = typed.rpartition("/")
    folder = Path(f"{head}{slash}" or ".").expanduser()
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith(start))
    except OSError:
        return []  # half a name: the directory does not exist (yet), or is not ours to read
    found = []
    for name in names:
        if name.startswith(".") and not start.startswith("."):
            continue
        path = folder / name
        if path.is_dir():
            is_checkpoint = (path / "config.json").is_file()
            found.append((f"{head}{slash}{name}{'' if is_checkpoint else '/'}", _about(is_checkpoint)))
        elif name.endswith(tuple(endings)):
            found.append((f"{head}{slash}{name}", "file"))
    return found[:MOST]


def _about(is_checkpoint: bool) -> str:
    return "checkpoint" if is_checkpoint else "directory"


def common_start(names: Sequence[str]) -> str:
    """The characters that all these texts begin with."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)
