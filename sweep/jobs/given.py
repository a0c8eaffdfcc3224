"""What jobs are given: the model, texts, tasks, an importance matrix, distributions to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.artefact import Artefact
from sweep.measure.task_options import TaskOptions

if TYPE_CHECKING:
    from sweep.measure.lm_eval_tasks import TaskLocation


@dataclass(frozen=True)
class Origin:
    """What variants are made of: a model called `name` at `source`; `fingerprint` is a hash of its content."""

    name: str
    source: Artefact
    fingerprint: str


@dataclass(frozen=True)
class TextFile:
    """A text: its name for people, its file, and a hash of what it holds."""

    name: str
    file: Artefact
    identity: str


@dataclass(frozen=True)
class Task:
    """A task of lm-eval: by name from the YAML files of `folder`, or from lm-eval's own collection where that is None.

    Of the latter the data set may lie in `data` as JSONL files, of the form `data_name` of presets/tasks/data.toml.
    `identity` is a hash of name, options and every file that may be read; `unbounded` the same without a bound on
    answers, where there is one.
    """

    name: str
    folder: Artefact | None = None
    data: Artefact | None = None
    data_name: str | None = None
    options: TaskOptions = field(default_factory=TaskOptions)
    identity: str = ""
    unbounded: str | None = None

    @property
    def is_local(self) -> bool:
        return self.folder is not None or self.data is not None

    def place(self, root: Path) -> TaskLocation:
        """Where lm-eval finds it, `root` being the workspace."""
        from sweep.measure.lm_eval_tasks import TaskLocation

        folder, data = (None if one is None else one.under(root) for one in (self.folder, self.data))
        return TaskLocation(folder, data, self.data_name)


@dataclass(frozen=True)
class ImportanceFile:
    """An importance matrix: its file, a hash of what it holds, and the key of the cell that makes it, if one does."""

    file: Artefact
    identity: str
    key: str | None = None


@dataclass(frozen=True)
class Baseline:
    """The distributions that a text is compared with: their identity, their file, and the key of the cell that makes
    that, where one does."""

    identity: str
    file: Artefact | None
    key: str | None = None
