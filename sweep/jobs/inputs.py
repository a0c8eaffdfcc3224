"""What can be known before any work: that tasks and texts can be had, and that the model's vocabulary suits them."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.artefact import Artefact
from sweep.jobs.base import Job, Nothing, Site
from sweep.jobs.given import Task, TextFile


@dataclass(frozen=True)
class Dataset:
    """A text in a data set of the hub, to be fetched into `file`; `option` takes a file in its place."""

    path: str
    name: str
    split: str
    file: Artefact
    option: str


@dataclass(frozen=True)
class InputsJob(Job[Nothing]):
    """Load every task, and fetch a text where it is not here yet."""

    kind = "inputs"
    found = Nothing

    tasks: tuple[Task, ...] = ()
    dataset: Dataset | None = None

    def run(self, site: Site) -> Nothing:
        from sweep.measure.harness import check_task
        from sweep.measure.plain_text import save_text

        for task in self.tasks:
            check_task(task.name, task.place(site.root), task.options)
        wanted = self.dataset
        if wanted is not None and not (file := site.path(wanted.file)).exists():
            save_text(wanted.path, wanted.name, wanted.split, file, wanted.option)
        return Nothing()


@dataclass(frozen=True)
class VocabularyJob(Job[Nothing]):
    """Make sure that the model's tokens of `text` are enough for two windows, and that it has the chat template that is
    to be used (`chat`, `thinking`). No weight is read."""

    kind = "vocabulary"
    found = Nothing

    source: Artefact
    name: str
    window: int
    text: Artefact | None = None
    chat: bool = False
    thinking: bool | None = None

    def run(self, site: Site) -> Nothing:
        from converters.llamacpp.ghost import vocabulary
        from converters.llamacpp.model import Model
        from converters.resolver import open_source
        from sweep.measure.lm_eval_model import require_template
        from sweep.measure.perplexity import require_two_windows
        from sweep.measure.plain_text import read_text

        opened = open_source(site.path(self.source), self.name, requantize=True)
        with vocabulary(opened.metadata) as file, Model(file, vocabulary=True) as model:
            if self.chat:
                require_template(model.chat_template, self.thinking)
            if self.text is not None:
                tokens = model.tokenize(read_text(site.path(self.text)), add_special=True)
                require_two_windows(len(tokens), self.window)
        return Nothing()


@dataclass(frozen=True)
class CalibrationJob(Job[Nothing]):
    """Make sure that the model's tokens of a text are enough to calibrate recipes with. No weight is read."""

    kind = "calibration"
    found = Nothing

    source: Artefact
    text: TextFile

    def run(self, site: Site) -> Nothing:
        from int8.build import CalibrationText, calibration_tokens
        from sweep.measure.plain_text import read_text

        text = CalibrationText(self.text.name, lambda: read_text(site.path(self.text.file)))
        calibration_tokens(site.path(self.source), text, None, None)
        return Nothing()
