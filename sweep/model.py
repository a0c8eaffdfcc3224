"""What MODEL on the command line stands for: a built-in model, a directory, a GGUF file or a hub id."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import presets
from converters.errors import InputError
from converters.hub import fetch, is_hub_id


@dataclass(frozen=True)
class Model:
    """A model on this disk.

    `fingerprint` is a hash of its content, `context` the longest context it was made for (tokens), `builtin` set where
    it came with the program.
    """

    name: str
    path: Path
    fingerprint: str
    context: int
    builtin: presets.BuiltinModel | None = None


def resolve(text: str, say: Callable[[str], None]) -> Model:
    """Find MODEL, fetching it from the hub where it is an id. Raises InputError where there is none.

    `say` is told what takes long.
    """
    builtin = presets.builtin_models().get(text)
    if builtin is not None:
        return _opened(builtin.name, builtin.directory, builtin)
    path = Path(text).expanduser()
    if path.exists():
        path = path.resolve()
        return _opened(path.stem if path.is_file() else path.name, path)
    if not is_hub_id(text):
        near = difflib.get_close_matches(text, presets.builtin_models(), n=1)
        hint = f"did you mean the built-in '{near[0]}'?" if near else "give a directory, a .gguf file or a hub id"
        raise InputError(f"{text}: there is no such model; {hint}")
    say(f"{text} is no path here; asking the hub")
    return _opened(text.partition("@")[0].rpartition("/")[2], fetch(text))


def _opened(name: str, path: Path, builtin: presets.BuiltinModel | None = None) -> Model:
    from converters.source import open_source  # loads libllama, which `--help` should not wait for

    source = open_source(path, name)
    architecture = source.metadata["general.architecture"].value
    return Model(name, path, source.fingerprint, int(source.metadata[f"{architecture}.context_length"].value), builtin)
