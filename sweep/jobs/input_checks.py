"""The jobs that check the inputs before a run starts: tasks, texts, length of the texts in tokens."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.artefact import Artefact
from sweep.jobs.base import CheckPassed, Job, Site
from sweep.jobs.inputs import Task, TextFile
from sweep.jobs.settings import Settings
from sweep.measure.text_form import TextForm


@dataclass(frozen=True)
class TextDataset:
    """A text in a data set of the hub, to be downloaded to `file`. `option` is the command-line option that takes a
    file instead; error messages name it."""

    path: str
    name: str
    split: str
    file: Artefact
    option: str


@dataclass(frozen=True)
class InputCheckJob(Job[CheckPassed]):
    """Load every task, and download a text if its file does not exist yet."""

    kind = "inputs"
    result_type = CheckPassed

    tasks: tuple[Task, ...] = ()
    dataset: TextDataset | None = None

    def run(self, site: Site) -> CheckPassed:
        from sweep.measure.harness import check_task
        from sweep.measure.plain_text import save_text

        for task in self.tasks:
            check_task(task.name, task.location(site.root), task.options)
        dataset = self.dataset
        if dataset is not None and not (file := site.path(dataset.file)).exists():
            save_text(dataset.path, dataset.name, dataset.split, file, dataset.option)
        return CheckPassed()


@dataclass(frozen=True)
class VocabularyCheckJob(Job[CheckPassed]):
    """Check that `text` has enough tokens for two windows, and `imatrix_text` for two chunks. No weight is read.

    `form` and `imatrix_form` are the forms of the texts; `pre_tokenizer`: see `open_source`."""

    kind = "vocabulary"
    result_type = CheckPassed

    source: Artefact
    name: str
    window: int = 0
    text: Artefact | None = None
    form: TextForm = TextForm.PLAIN
    imatrix_text: Artefact | None = None
    imatrix_form: TextForm = TextForm.PLAIN
    pre_tokenizer: str | None = None

    def run(self, site: Site) -> CheckPassed:
        from converters.llamacpp.ghost import vocabulary
        from converters.llamacpp.imatrix_collection import require_two_chunks
        from converters.llamacpp.model import Model
        from converters.resolver import open_source
        from sweep.jobs.imatrix import CHUNK
        from sweep.measure.perplexity import require_two_windows
        from sweep.measure.texts import text_tokens

        opened = open_source(site.path(self.source), self.name, self.pre_tokenizer, requantize=True)
        with vocabulary(opened.metadata) as file, Model(file, vocabulary=True) as model:
            if self.text is not None:
                require_two_windows(len(text_tokens(site.path(self.text), self.form, model)), self.window)
            if self.imatrix_text is not None:
                tokens = text_tokens(site.path(self.imatrix_text), self.imatrix_form, model)
                require_two_chunks(len(tokens), CHUNK)
        return CheckPassed()


@dataclass(frozen=True)
class CalibrationCheckJob(Job[CheckPassed]):
    """Check that a text has enough tokens to calibrate recipes with. No weight is read."""

    kind = "calibration"
    result_type = CheckPassed

    source: Artefact
    text: TextFile

    def run(self, site: Site) -> CheckPassed:
        from sweep.jobs.calibration import calibration_source

        text = calibration_source(self.text.name, self.text.form, lambda: site.path(self.text.file))
        text.of(site.path(self.source), None, None)
        return CheckPassed()


@dataclass(frozen=True)
class LoadCheckJob(Job[CheckPassed]):
    """Check that llama.cpp can load GGUF files, in a worker, because it ends its process for some files. No weight is
    read."""

    kind = "load_check"
    result_type = CheckPassed

    files: tuple[Artefact, ...]

    def run(self, site: Site) -> CheckPassed:
        from converters.gguf_source import GGUFSource
        from converters.loadable import require_loadable_source

        for file in self.files:
            require_loadable_source(GGUFSource(site.path(file), requantize=True))
        return CheckPassed()


@dataclass(frozen=True)
class CacheCheckJob(Job[CheckPassed]):
    """Check that llama.cpp can make a KV cache of these settings for each model: a checkpoint or a GGUF file. No weight
    is read."""

    kind = "cache_check"
    result_type = CheckPassed

    sources: tuple[Artefact, ...]
    name: str
    settings: Settings

    def run(self, site: Site) -> CheckPassed:
        from converters.llamacpp.memory import plan_memory
        from converters.plan import plan_export
        from converters.resolver import Need, open_source

        for source in self.sources:
            path = site.path(source)
            opened = open_source(path, self.name, requantize=True, need=Need.PLAN)
            (plan,) = plan_export(opened, ["BF16"]).values()
            context = self.settings.context(site.resources.threads)
            plan_memory(opened.structure, plan.tensors, context, self.settings.load, path.name)
        return CheckPassed()


@dataclass(frozen=True)
class ImatrixCheckJob(Job[CheckPassed]):
    """Check that the importance matrix in the file `matrix` has entries for all tensors of `quants` that need one."""

    kind = "imatrix_check"
    result_type = CheckPassed

    source: Artefact
    name: str
    quants: tuple[str, ...]
    matrix: Artefact

    def run(self, site: Site) -> CheckPassed:
        from converters.imatrix import ImportanceMatrix
        from converters.plan import plan_export
        from converters.resolver import Need, open_source

        matrix = site.path(self.matrix)
        opened = open_source(site.path(self.source), self.name, requantize=True, need=Need.PLAN)
        plan_export(opened, self.quants, ImportanceMatrix.read(matrix).importance(matrix.name))
        return CheckPassed()
