"""What a model is measured with: the text for perplexity and the lm-eval tasks, built in or of the user's choice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import presets
from converters.errors import InputError
from sweep.model import Model

REMEDY = (
    "choose tasks with --tasks (none, or a task's YAML file), give local data with --task-data, "
    "a text with --perplexity"
)


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


@dataclass(frozen=True)
class Task:
    """A task of lm-eval: by name from `folder`, or from lm-eval's own collection where that is None."""

    name: str
    folder: Path | None
    limit: int | None

    @property
    def identity(self) -> str:
        """Name, limit and, of local tasks, the content of every file beside their YAML."""
        digest = hashlib.sha256(f"{self.name} {self.limit}".encode())
        if self.folder is not None:
            for file in sorted(file for file in self.folder.iterdir() if file.is_file()):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()


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


def tasks_for(model: Model, chosen: tuple[str, ...] | None, limit: int | None, folder: Path | None) -> tuple[Task, ...]:
    """The tasks asked for, else the model's own, else the default ones. `none` asks for no task.

    A name may be a YAML file; `folder` (--task-data) holds task YAMLs with their data, found before lm-eval's own.
    Raises InputError.
    """
    if chosen is None:
        if model.builtin is not None:
            return tuple(Task(name, model.builtin.task_directory, limit) for name in model.builtin.tasks)
        chosen = tuple(presets.defaults()["tasks"])
        limit = limit or presets.defaults()["limit"]
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: there is no such directory (--task-data)")
    return tuple(_task(name, model, limit, folder) for name in chosen if name != "none")


def _task(name: str, model: Model, limit: int | None, folder: Path | None) -> Task:
    if name.endswith((".yaml", ".yml")):
        file = Path(name).expanduser().resolve()
        if not file.is_file():
            raise InputError(f"{name}: there is no such task file")
        return Task(_declared(file), file.parent, limit)
    folders = [builtin.task_directory for builtin in presets.builtin_models().values()]
    if folder is not None:
        folders.insert(0, folder)
    for place in folders:
        if name in (_declared(file) for file in sorted(place.glob("*.yaml"))):
            return Task(name, place.resolve(), limit)
    return Task(name, None, limit)


def _declared(file: Path) -> str:
    """The name in a task's YAML, read as a line: the files use tags that only lm-eval can load."""
    for line in file.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == "task":
            return value.strip().strip("\"'")
    return file.stem
