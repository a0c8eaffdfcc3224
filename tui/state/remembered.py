"""What the screen remembers from one session to the next: the theme, the question of Fit, the latest models, and the
columns of Results that are not shown.

It is in a small file in the system's folder for the state of programs, or in the folder BITSWEEP_STATE.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import platformdirs

from converters.atomic import AtomicFile
from converters.errors import InputError
from presets import builtin_models
from presets.catalogue import models
from tui.state.question import Question

MOST_MODELS = 8  # models that the list of recent ones has


@dataclass(frozen=True)
class Remembered:
    """`models` are those that were asked about, the latest first; `hidden` the heads of columns. Empty `theme` and no
    `question`: the defaults."""

    theme: str = ""
    question: Question | None = None
    models: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def with_question(self, question: Question) -> Remembered:
        """A copy with this question, whose model is now the latest. A local model gets its absolute path."""
        path, is_known = Path(question.model).expanduser(), question.model in (*builtin_models(), *models())
        name = str(path.absolute()) if path.exists() and not is_known else question.model
        latest = (name, *(one for one in self.models if one != name))[:MOST_MODELS]
        return replace(self, question=replace(question, model=name), models=latest)


def _file() -> Path:
    folder = os.environ.get("BITSWEEP_STATE") or platformdirs.user_state_path("bitsweep")
    return Path(folder) / "screen.json"


def recall() -> Remembered:
    """What was remembered, or the defaults. Raises InputError if the file cannot be used."""
    file = _file()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Remembered)
    except FileNotFoundError:
        return Remembered()
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{file} cannot be read ({error}); the screen starts with its defaults") from error


def remember(what: Remembered) -> None:
    """Replace what was remembered. Raises InputError if the file cannot be written."""
    with AtomicFile(_file(), remedy="the screen will not remember this", make_parents=True) as file:
        file.write(msgspec.json.encode(what))
