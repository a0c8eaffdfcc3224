"""The text that a model is measured with, built in or of the user's choice; tasks are in tasks.py."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import presets
from converters.errors import InputError
from sweep.planning.model import Model


@dataclass(frozen=True)
class Text:
    """A text for perplexity: a file; `dataset` (path, name, split) where it is fetched from the hub before the run."""

    name: str
    file: Path
    dataset: tuple[str, str, str] | None = None

    @property
    def identity(self) -> str:
        """Content of the file; a published dataset is known by its name."""
        if self.dataset is not None:
            return "/".join(self.dataset)
        return hashlib.sha256(self.file.read_bytes()).hexdigest()


def read_text(path: Path) -> str:
    """A text file's content. Raises InputError where it is no UTF-8 or cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def text_for(model: Model, chosen: Path | None, folder: Path) -> Text:
    """`chosen`, else the built-in model's own text, else WikiText-2, to be fetched into `folder`. Raises InputError."""
    if chosen is not None:
        if not chosen.is_file():
            raise InputError(f"{chosen}: there is no such text file (--perplexity)")
        return Text(chosen.name, chosen.resolve())
    if model.builtin is not None:
        return Text(f"{model.name} test text", model.builtin.text)
    wanted = presets.defaults()["text"]
    dataset = (wanted["dataset"], wanted["name"], wanted["split"])
    return Text("WikiText-2 test", folder / f"{wanted['name']}-{wanted['split']}.txt", dataset)


def int8_text_for(model: Model, chosen: Path | None, folder: Path) -> Text:
    """What int8 recipes are calibrated with: `chosen`, else the built-in model's own text, else the default one, to be
    fetched into `folder`. Raises InputError."""
    if chosen is not None:
        if not chosen.is_file():
            raise InputError(f"{chosen}: there is no such text (--calibration)")
        return Text(chosen.name, chosen.resolve())
    if model.builtin is not None:
        return Text(f"{model.name}'s own text", model.builtin.calibration)
    name, wanted = next(iter(presets.defaults()["calibration_texts"].items()))
    dataset = (wanted["dataset"], wanted["name"], wanted["split"])
    return Text(name, folder / f"{wanted['name']}-{wanted['split']}.txt", dataset)
