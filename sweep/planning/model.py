"""What MODEL on the command line stands for: a built-in model, a directory, a GGUF file or a hub id."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import presets
from converters.catalogue import is_public, open_planned
from converters.errors import InputError
from converters.gguf_source import model_stem
from converters.hub import fetch, is_hub_id
from converters.source import open_source


@dataclass(frozen=True)
class Model:
    """A model on this disk.

    `fingerprint` is a hash of its content, `context` the longest context it was made for (tokens), `builtin` set where
    it came with the program, `layers` how many blocks it has.
    """

    name: str
    path: Path
    fingerprint: str
    context: int
    builtin: presets.BuiltinModel | None = None
    layers: int = 0


def resolve(text: str, say: Callable[[str], None], planned: bool = False, as_it_is: bool = False) -> Model:
    """Find MODEL and open it. Raises InputError where there is none; `say` and `planned` as for `find`.

    `as_it_is`: nothing will be made of it, so that a quantized file will do.
    """
    builtin = presets.builtin_models().get(text)
    name, path = find(text, say, planned)
    source = open_planned(str(path), name) if planned else open_source(path, name, requantize=as_it_is)
    architecture = source.structure["general.architecture"].value
    context = int(source.structure[f"{architecture}.context_length"].value)
    layers = int(source.structure[f"{architecture}.block_count"].value)
    return Model(name, path, source.fingerprint, context, builtin, layers)


def find(text: str, say: Callable[[str], None], planned: bool = False) -> tuple[str, Path]:
    """The name and the place of MODEL, fetched from the hub where it is an id. Raises InputError where there is none.

    `say` is told what takes long. With `planned` its sizes will do: a config, or a name of the catalogue, which then
    is the path.
    """
    builtin = presets.builtin_models().get(text)
    if builtin is not None:
        return builtin.name, builtin.directory
    path = Path(text).expanduser()
    if path.exists():
        path = path.resolve()
        return _name(path), path
    if planned and is_public(text):
        return text.rpartition("/")[2], Path(text)
    if not is_hub_id(text):
        near = difflib.get_close_matches(text, presets.builtin_models(), n=1)
        hint = f"did you mean the built-in '{near[0]}'?" if near else "give a directory, a .gguf file or a hub id"
        if is_public(text):
            hint = "its sizes alone are known (--dry-run); for more give its hub id or a directory"
        raise InputError(f"{text}: there is no such model; {hint}")
    say(f"{text} is no path here; asking the hub")
    return text.partition("@")[0].rpartition("/")[2], fetch(text, weights=not planned)


def _name(path: Path) -> str:
    if path.suffix == ".gguf":
        return model_stem(path)
    return path.parent.name if path.name == "config.json" else path.stem if path.is_file() else path.name
