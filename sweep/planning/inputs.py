"""The texts that a model is measured and calibrated with, built in or of the user's choice; tasks are in tasks.py."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import presets
from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs.given import TextFile
from sweep.jobs.inputs import Dataset
from sweep.planning.model import ResolvedModel


@dataclass(frozen=True)
class FoundText:
    """A text, and where it is fetched from before the run if it is a published data set."""

    file: TextFile
    dataset: Dataset | None = None

    @property
    def name(self) -> str:
        return self.file.name


def text_for(model: ResolvedModel, chosen: Path | None) -> FoundText:
    """`chosen`, else the built-in model's own text, else WikiText-2. Raises InputError."""
    if chosen is not None:
        if not chosen.is_file():
            raise InputError(f"{chosen}: there is no such text file (--perplexity)")
        return _local(chosen.name, chosen.resolve())
    if model.builtin is not None:
        return _local(f"{model.name} test text", model.builtin.text)
    return _published("WikiText-2 test", presets.defaults()["text"], "--perplexity")


def calibration_text(chosen: str | None, builtin: presets.BuiltinModel | None) -> FoundText:
    """What recipes are calibrated with: the text of that name or file, else the built-in model's own, else the default
    one. Raises InputError.

    A name is a built-in model's, for its text, or one of the texts in presets/defaults.toml.
    """
    known: dict[str, dict[str, str]] = presets.defaults()["calibration_texts"]
    builtins = presets.builtin_models()
    if chosen is not None and (file := Path(chosen).expanduser()).is_file():
        return _local(file.name, file.resolve())
    if chosen is None:
        chosen = builtin.name if builtin is not None else next(iter(known))
    if chosen in builtins:
        return _local(f"{chosen}'s own text", builtins[chosen].calibration)
    if chosen not in known:
        near = difflib.get_close_matches(chosen, [*known, *builtins], n=1) or [*known, *builtins]
        raise InputError(f"{chosen}: there is no such text (--calibration); give a file or {', '.join(near)}")
    return _published(chosen, known[chosen], "--calibration")


def _local(name: str, file: Path) -> FoundText:
    return FoundText(TextFile(name, Artefact.of(file), hashlib.sha256(file.read_bytes()).hexdigest()))


def _published(name: str, wanted: Mapping[str, str], option: str) -> FoundText:
    """A data set is known by its name; `option` takes a file in its place."""
    where = wanted["dataset"], wanted["name"], wanted["split"]
    file = Artefact(f"texts/{wanted['name']}-{wanted['split']}.txt")
    return FoundText(TextFile(name, file, "/".join(where)), Dataset(*where, file, option))
