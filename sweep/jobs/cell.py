"""A job in its place in a plan, and what a plan asks for of every variant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sweep.artefact import Artefact
from sweep.jobs.base import StoredJob
from sweep.jobs.given import Baseline, Origin, Task, TextFile
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import Settings, Where


@dataclass(frozen=True)
class Cell:
    """A job of a variant under the `name` of what it does: "export", "speed", "text", a task.

    `needs` are keys of cells whose files it reads, without which it fails; `wants` are keys of cells that it waits for
    and does without where they fail. `alike` is the key of the same task without a bound on answers: where it turns out
    to generate none, the two are one measurement.
    """

    key: str
    variant: str
    name: str
    job: StoredJob[Any]
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    alike: str | None = None

    @property
    def kind(self) -> str:
        return self.job.kind

    @property
    def makes(self) -> Artefact | None:
        return self.job.makes

    @property
    def label(self) -> str:
        return f"{self.variant}/{self.name}"


@dataclass(frozen=True)
class Asked:
    """What every variant of a sweep is measured by and on. `folder` is where what is made goes, in the workspace.

    `alone`: nothing will be compared with the reference, so its distributions are not written down but to `base_file`,
    as llama.cpp does. `calibration` is the text that recipes of torch are calibrated with.
    """

    origin: Origin
    settings: Settings
    where: Where
    folder: str
    text: TextFile | None = None
    tasks: tuple[Task, ...] = ()
    alone: bool = False
    base_file: Artefact | None = None
    calibration: TextFile | None = None

    def artefact(self, name: str) -> Artefact:
        return Artefact(f"{self.folder}/{name}")


@dataclass(frozen=True)
class PlannedJob:
    """A measurement of a variant before it is a cell; see Cell."""

    name: str
    job: StoredJob[Any]
    wants: tuple[str, ...] = ()
    alike: StoredJob[Any] | None = None


class Measurement(Protocol):
    """Gives the jobs that measure a model; `baseline` is None where the model's own text is what others are compared
    with."""

    def __call__(self, model: MeasuredModel, asked: Asked, baseline: Baseline | None) -> Iterable[PlannedJob]: ...
