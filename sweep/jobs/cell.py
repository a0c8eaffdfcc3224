"""A job in its place in a plan, and the functions that give the jobs which measure a variant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sweep.artefact import Artefact
from sweep.defaults import SPEED_SECONDS
from sweep.jobs.base import StoredJob
from sweep.jobs.images import ImageSettings
from sweep.jobs.inputs import Baseline, Origin, SpeechFile, Task, TextFile
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources, Settings
from sweep.statistics.stopping import StopRule
from sweep.statistics.task_stopping import TaskStopRule


@dataclass(frozen=True)
class Cell:
    """A job in the table of variants and measurements. `name` is the column: "export", "speed", "text" or a task.

    - `key`: the key that the job's result is stored under.
    - `needs`: keys of cells whose files the job reads. The job fails if one of them fails.
    - `optional_needs`: keys of cells that must end first. If one of them fails, the job runs without its result.
    - `equivalent_key`: the key of the same task without the options for generated answers. If the task turns out to
      generate no text, both are the same measurement, and the result is stored under both keys.
    """

    key: str
    variant: str
    name: str
    job: StoredJob[Any]
    needs: tuple[str, ...] = ()
    optional_needs: tuple[str, ...] = ()
    equivalent_key: str | None = None

    @property
    def kind(self) -> str:
        return self.job.kind

    @property
    def output(self) -> Artefact | None:
        return self.job.output

    @property
    def label(self) -> str:
        return f"{self.variant}/{self.name}"


@dataclass(frozen=True)
class SweepImages:
    """What the variants of a sweep with images have in common. `tower` is a hash of the checkpoint's vision tower; None
    if the model is a GGUF file, from which no projector file can be made."""

    settings: ImageSettings
    tower: str | None


@dataclass(frozen=True)
class SweepSpeech:
    """The recordings that the variants of a speech model are measured on, and those that recipes are calibrated with;
    None if no recipe is."""

    measured: SpeechFile
    calibration: SpeechFile | None = None


@dataclass(frozen=True)
class SweepInputs:
    """Everything that the variants of a sweep have in common.

    `folder` is where jobs put their files, relative to the workspace. `calibration` is the text that int8 recipes are
    calibrated with. `base_file` is where the log-probabilities are written in llama.cpp's format. `single`: only one
    variant is measured, so nothing is compared with the reference and its distributions are not stored. `images` is
    None if no task has images. `image_references` are the distributions at answers about images that a variant is
    compared with, by task; None: nothing is compared. `other_texts` are measured beside `text`, and `text_references`
    are the distributions that a variant is compared with over them, by the text's identity. `windows` is how many
    windows of each text are read; None: all. `stop_rule`: texts are measured in rounds, until it is met, but those in
    full whose reference's job has its key in `whole_texts`. `task_rule`: tasks are run in rounds by variants whose
    reference runs them too, in the cells with the keys `task_references`, but not those whose job on all items has its
    key in `whole_tasks`.
    `measure` are the names of the measurements; empty: all of them.
    `speech` is None unless the model is a speech model; `speech_reference` has the transcripts and distributions that a
    variant is compared with.
    `speed_seconds` is the time for repeats of the timings of speed, `depths` are the numbers of tokens after which
    speed is measured too. `draft` drafts tokens, of which is measured how many each variant accepts.
    """

    origin: Origin
    settings: Settings
    resources: ComputeResources
    folder: str
    text: TextFile | None = None
    tasks: tuple[Task, ...] = ()
    single: bool = False
    base_file: Artefact | None = None
    calibration: TextFile | None = None
    images: SweepImages | None = None
    image_references: Mapping[str, Baseline] | None = None
    other_texts: tuple[TextFile, ...] = ()
    text_references: Mapping[str, Baseline] = field(default_factory=dict)
    windows: int | None = None
    stop_rule: StopRule | None = None
    whole_texts: frozenset[str] = frozenset()
    task_rule: TaskStopRule | None = None
    task_references: Mapping[str, str] = field(default_factory=dict)
    whole_tasks: frozenset[str] = frozenset()
    measure: tuple[str, ...] = ()
    speed_seconds: float = SPEED_SECONDS
    depths: tuple[int, ...] = ()
    draft: MeasuredModel | None = None
    speech: SweepSpeech | None = None
    speech_reference: Baseline | None = None

    def artefact(self, name: str) -> Artefact:
        return Artefact(f"{self.folder}/{name}")


@dataclass(frozen=True)
class PlannedJob:
    """A measurement of a variant, from which the plan makes a `Cell`. `equivalent` is the job that the cell's
    `equivalent_key` belongs to."""

    name: str
    job: StoredJob[Any]
    optional_needs: tuple[str, ...] = ()
    equivalent: StoredJob[Any] | None = None


class Measurement(Protocol):
    """Gives the jobs that measure a model. `baseline` is None for the model whose distributions the others are compared
    with."""

    def __call__(
        self, model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None
    ) -> Iterable[PlannedJob]: ...
