"""A checkpoint written as a GGUF file of one quant; all quants of a checkpoint are written in one pass over it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from converters.plan import TypeCount
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob
from sweep.jobs.settings import Where


@dataclass(frozen=True)
class ExportResult(Result):
    """`census` counts tensors by type."""

    file_bytes: int
    bits_per_weight: float
    census: Mapping[str, TypeCount] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class ExportJob(StoredJob[ExportResult]):
    """Write `source`, whose content is `model`, to `file` as `quant`, by the importance in the file `imatrix`.

    `label` is the quant and the version of its mix, `importance` a hash of what the importance matrix holds.
    """

    kind = "export"
    found = ExportResult
    making = True
    makes_model = True

    source: Artefact
    name: str
    quant: str
    file: Artefact
    model: str
    label: str
    engine: str
    imatrix: Artefact | None = None
    importance: str | None = None

    def identity(self, where: Where) -> Any:
        made = {"model": self.model, "name": self.name, "quant": self.label, "engine": self.engine}
        weighed = {} if self.importance is None else {"imatrix": self.importance}
        return {"kind": self.kind, "procedure": self.procedure, **made, **weighed}

    @property
    def makes(self) -> Artefact:
        return self.file

    @property
    def essential(self) -> bool:
        return True

    @property
    def batch(self) -> Hashable:
        return self.kind, self.source, self.imatrix

    def run(self, site: Site) -> ExportResult:
        return self.run_together([self], site)[0]

    @classmethod
    def run_together(cls, jobs: Sequence[Self], site: Site) -> list[ExportResult]:
        from converters.export import export
        from converters.imatrix import ImportanceMatrix
        from converters.resolver import open_source

        first = jobs[0]
        paths = {job.quant: site.path(job.file) for job in jobs}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        matrix = next((site.path(job.imatrix) for job in jobs if job.imatrix is not None), None)
        plans = export(
            open_source(site.path(first.source), first.name),
            paths,
            lambda at: site.tell(at.done_bytes, at.total_bytes),
            site.where.threads,
            None if matrix is None else ImportanceMatrix.read(matrix).importance(matrix.name),
        )
        made = (plans[job.quant] for job in jobs)
        return [ExportResult(plan.file_bytes, plan.bits_per_weight, plan.census) for plan in made]
