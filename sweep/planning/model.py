"""The model of a run: found by `converters.resolver`, and what a plan needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import presets
from converters.resolver import Need, find_model


@dataclass(frozen=True)
class ResolvedModel:
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


def resolve(text: str, say: Callable[[str], None], planned: bool = False, as_it_is: bool = False) -> ResolvedModel:
    """Find MODEL and open it. Raises InputError where there is none; `say` is given a line before what takes long.

    With `planned` its sizes will do: a config, or a name of the catalogue. `as_it_is`: nothing will be made of it, so
    that a quantized file will do.
    """
    found = find_model(text, Need.PLAN if planned else Need.WEIGHTS, say)
    source = found.open(found.name, requantize=as_it_is)
    architecture = source.structure["general.architecture"].value
    context = int(source.structure[f"{architecture}.context_length"].value)
    layers = int(source.structure[f"{architecture}.block_count"].value)
    return ResolvedModel(found.name, found.path, source.fingerprint, context, found.builtin, layers)
