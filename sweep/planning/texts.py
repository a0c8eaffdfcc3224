"""The texts for perplexity and for calibration: built in, published data sets, or the user's files."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import presets
from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs.input_checks import TextDataset
from sweep.jobs.inputs import TextFile
from sweep.measure.plain_text import text_bytes
from sweep.planning.model import ResolvedModel


@dataclass(frozen=True)
class FoundText:
    """A text. `dataset` is the published data set that it is downloaded from before the run; None for a local file."""

    file: TextFile
    dataset: TextDataset | None = None

    @property
    def name(self) -> str:
        return self.file.name


def text_for(model: ResolvedModel, chosen: Path | None) -> FoundText:
    """The text for perplexity: `chosen`, or the built-in model's own text, or WikiText-2. Raises InputError."""
    if chosen is not None:
        if not chosen.is_file():
            raise InputError(f"{chosen}: there is no such text file (--perplexity)")
        return _local(chosen.name, chosen.resolve())
    if model.builtin is not None:
        return _local(f"{model.name} test text", model.builtin.text)
    return _published("WikiText-2 test", presets.defaults()["text"], "--perplexity")


def calibration_text(chosen: str | None, builtin: presets.BuiltinModel | None) -> FoundText:
    """The text that int8 recipes are calibrated with: `chosen`, or the built-in model's own text, or the default text.

    `chosen` is a file, the name of a built-in model for its text, or the name of a text in presets/defaults.toml.
    Raises InputError.
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
    return FoundText(TextFile(name, Artefact.of(file), hashlib.sha256(text_bytes(file)).hexdigest()))


def _published(name: str, hub_text: Mapping[str, str], option: str) -> FoundText:
    """A text in a data set on the hub. `option` is the option that takes a file instead."""
    dataset = hub_text["dataset"], hub_text["name"], hub_text["split"]
    file = Artefact(f"texts/{hub_text['name']}-{hub_text['split']}.txt")
    return FoundText(TextFile(name, file, "/".join(dataset)), TextDataset(*dataset, file, option))
