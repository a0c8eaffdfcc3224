"""The text that a model is measured with, built in or of the user's choice; tasks are in tasks.py."""

from __future__ import annotations

import difflib
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


def calibration_text(chosen: str | None, builtin: presets.BuiltinModel | None, folder: Path) -> Text:
    """What int8 recipes are calibrated with: the text of that name or file, else the built-in model's own, else the
    default one. Raises InputError.

    A name is a built-in model's, for its text, or one of the texts in presets/defaults.toml, which is to be fetched
    from the hub into `folder`.
    """
    known: dict[str, dict[str, str]] = presets.defaults()["calibration_texts"]
    builtins = presets.builtin_models()
    if chosen is not None and (file := Path(chosen).expanduser()).is_file():
        return Text(file.name, file.resolve())
    if chosen is None:
        chosen = builtin.name if builtin is not None else next(iter(known))
    if chosen in builtins:
        return Text(f"{chosen}'s own text", builtins[chosen].calibration)
    if chosen not in known:
        near = difflib.get_close_matches(chosen, [*known, *builtins], n=1) or [*known, *builtins]
        raise InputError(f"{chosen}: there is no such text (--calibration); give a file or {', '.join(near)}")
    wanted = known[chosen]
    dataset = (wanted["dataset"], wanted["name"], wanted["split"])
    return Text(chosen, folder / f"{wanted['name']}-{wanted['split']}.txt", dataset)
