"""The importance of a model's weights, collected while the model reads a text, as llama-imatrix collects it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob
from sweep.jobs.settings import Settings, Where

CHUNK = 512  # tokens, as llama-imatrix takes them by default


@dataclass(frozen=True)
class ImatrixResult(Result):
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImatrixJob(StoredJob[ImatrixResult]):
    """Let the model in `file` read `text`, and write what it finds to `matrix`.

    `content` and `text_identity` are hashes of what the two hold; `origin` stands in the matrix, so that it is known
    again: the hash of all this unless it is given.
    """

    kind = "imatrix"
    found = ImatrixResult
    procedure = 3
    weight = 4.0
    making = True

    file: Artefact
    text: Artefact
    matrix: Artefact
    content: str
    text_identity: str
    origin: str
    engine: str
    settings: Settings

    def identity(self, where: Where) -> Any:
        made = made_of(self.content, self.text_identity, self.engine, self.settings)
        return {"kind": self.kind, "procedure": self.procedure, **made}

    @property
    def makes(self) -> Artefact:
        return self.matrix

    def run(self, site: Site) -> ImatrixResult:
        from converters.imatrix import ImportanceMatrix
        from converters.llamacpp.imatrix import collect
        from sweep.measure.plain_text import read_text

        text, path = site.path(self.text), site.path(self.matrix)
        collected = collect(
            site.path(self.file),
            read_text(text),
            n_ctx=CHUNK,
            progress=site.tell,
            n_threads=site.where.threads,
            load=self.settings.load,
        )
        matrix = ImportanceMatrix.of(collected, text.name, self.origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix.write(path)
        return ImatrixResult(tuple(matrix.told))


def made_of(content: str, text_identity: str, engine: str, settings: Settings) -> dict[str, Any]:
    """All that an importance matrix depends on."""
    return {"content": content, "text": text_identity, "engine": engine, "gpu_layers": settings.gpu_layers}
