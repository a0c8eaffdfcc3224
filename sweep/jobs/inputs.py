"""The inputs of jobs: the model, texts, tasks, an importance matrix, distributions to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.artefact import Artefact
from sweep.measure.task_options import TaskOptions
from sweep.measure.text_form import TextForm

if TYPE_CHECKING:
    from sweep.measure.lm_eval_tasks import TaskLocation


@dataclass(frozen=True)
class Origin:
    """The model that variants are made from: `name` for people, the checkpoint `source`, and a hash of its content.

    If `source` is only the copy of a header, `weights` is the whole file, which the cells with the keys `needs` make.
    """

    name: str
    source: Artefact
    fingerprint: str
    weights: Artefact | None = None
    needs: tuple[str, ...] = ()

    @property
    def whole(self) -> Artefact:
        """Where the weights are, once the cells `needs` have run."""
        return self.weights or self.source


@dataclass(frozen=True)
class TextFile:
    """A text: `name` for people, its file, and a hash of its content and of how it is read (`form`). `bytes` is its
    size; 0 if it is not known."""

    name: str
    file: Artefact
    identity: str
    form: TextForm = TextForm.PLAIN
    bytes: int = 0


@dataclass(frozen=True)
class Task:
    """An lm-eval task.

    `folder` holds its YAML file; None: the task is part of lm-eval's own collection. `data` is a folder with the data
    set of such a task as JSONL files, in the form `data_name` of presets/tasks/data.toml; None: lm-eval gets the data
    from the hub. `identity` is a hash of name, options and every file that may be read. `unbounded` is the same hash
    without the options that matter only for generated answers, such as the limit on their length; None if it is equal.
    `takes_images`: whether its prompts have images, as far as its file says so.
    """

    name: str
    folder: Artefact | None = None
    data: Artefact | None = None
    data_name: str | None = None
    options: TaskOptions = field(default_factory=TaskOptions)
    identity: str = ""
    unbounded: str | None = None
    takes_images: bool = False

    @property
    def is_local(self) -> bool:
        return self.folder is not None or self.data is not None

    def location(self, root: Path) -> TaskLocation:
        """Where lm-eval finds the task and its data; `root` is the workspace's folder."""
        from sweep.measure.lm_eval_tasks import TaskLocation

        folder, data = (None if one is None else one.under(root) for one in (self.folder, self.data))
        return TaskLocation(folder, data, self.data_name)


@dataclass(frozen=True)
class SpeechFile:
    """Recordings with transcripts: `name` for people, their directory, and a hash of the content of what is used of it.

    `language` is their code. Used are `count` rows of the transcript table from row `first` on; None: all of them.
    `seconds` is their duration, `windows` the number of their windows of 30 s.
    """

    name: str
    directory: Artefact
    identity: str
    language: str = "en"
    first: int = 0
    count: int | None = None
    seconds: float = 0.0
    windows: int = 0


@dataclass(frozen=True)
class ImatrixFile:
    """An importance matrix: its file and a hash of its content. `key` is the key of the cell that makes the file; None
    if the user gave the file."""

    file: Artefact
    identity: str
    key: str | None = None


@dataclass(frozen=True)
class Baseline:
    """The distributions that a variant's text is compared with: their identity and their file. `key` is the key of the
    cell that writes the file; None if the user gave it."""

    identity: str
    file: Artefact | None
    key: str | None = None
