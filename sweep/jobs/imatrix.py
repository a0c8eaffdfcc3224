"""The job that collects an importance matrix while a model reads a text, as llama-imatrix does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob
from sweep.jobs.settings import ComputeResources, Settings
from sweep.measure.text_form import TextForm

CHUNK = 512  # tokens per chunk: llama-imatrix's default


@dataclass(frozen=True)
class ImatrixResult(Result):
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImatrixJob(StoredJob[ImatrixResult]):
    """Let the model in `file` read `text`, and write the importance matrix to `matrix`.

    `content` and `text_identity` are hashes of the model and of the text with its `form`. `origin` is written into the
    matrix, so that a later run can recognize it.
    """

    kind = "imatrix"
    result_type = ImatrixResult
    procedure = 3
    weight = 4.0
    is_preparation = True

    file: Artefact
    text: Artefact
    matrix: Artefact
    content: str
    text_identity: str
    origin: str
    engine: str
    settings: Settings
    form: TextForm = TextForm.PLAIN

    def identity(self, resources: ComputeResources) -> Any:
        own = imatrix_identity(self.content, self.text_identity, self.engine, self.settings)
        return {"kind": self.kind, "procedure": self.procedure, **own}

    @property
    def output(self) -> Artefact:
        return self.matrix

    def run(self, site: Site) -> ImatrixResult:
        from converters.imatrix import ImportanceMatrix
        from converters.llamacpp.imatrix_collection import collect
        from converters.llamacpp.model import Model
        from sweep.measure.texts import text_tokens

        file, text, path = site.path(self.file), site.path(self.text), site.path(self.matrix)
        with Model(file, vocabulary=True) as model:
            tokens = text_tokens(text, self.form, model)
        collected = collect(
            file,
            tokens,
            n_ctx=CHUNK,
            progress=site.report_progress,
            n_threads=site.resources.threads,
            load=self.settings.load,
        )
        matrix = ImportanceMatrix.from_collected(collected, text.name, self.origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix.write(path)
        return ImatrixResult(tuple(matrix.coverage_notes))


def imatrix_identity(content: str, text_identity: str, engine: str, settings: Settings) -> dict[str, Any]:
    """Everything that an importance matrix depends on."""
    return {"content": content, "text": text_identity, "engine": engine, "gpu_layers": settings.gpu_layers}
