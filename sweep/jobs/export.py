"""The job that writes a checkpoint as a GGUF file. All quants of a checkpoint are written in one pass over it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from converters.errors import InputError
from converters.plan import TypeCount
from converters.recipes import recipe, title_of
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob
from sweep.jobs.settings import ComputeResources


@dataclass(frozen=True)
class ExportResult(Result):
    """The size of the file. `census` counts tensors by type."""

    file_bytes: int
    bits_per_weight: float
    census: Mapping[str, TypeCount] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class ExportJob(StoredJob[ExportResult]):
    """Write the checkpoint `source` to `file` as `quant`, with the importance matrix in the file `imatrix` if given.

    `model` is a hash of the checkpoint's content, `importance` a hash of the matrix. `label` is the quant with the
    version of its mix.
    """

    kind = "export"
    result_type = ExportResult
    weight = 0.25
    is_preparation = True
    output_is_model = True

    source: Artefact
    name: str
    quant: str
    file: Artefact
    model: str
    label: str
    engine: str
    imatrix: Artefact | None = None
    importance: str | None = None

    @property
    def file_name(self) -> str:
        """The name that `sweep convert` gives the file."""
        return f"{self.name}-{title_of(self.label)}.gguf"

    def identity(self, resources: ComputeResources) -> Any:
        own = {"model": self.model, "name": self.name, "quant": self.label, "engine": self.engine}
        imatrix = {} if self.importance is None else {"imatrix": self.importance}
        return {"kind": self.kind, "procedure": self.procedure, **own, **imatrix}

    @property
    def output(self) -> Artefact:
        return self.file

    @property
    def essential(self) -> bool:
        return True

    @property
    def batch_key(self) -> Hashable:
        return self.kind, self.source, self.imatrix

    def run(self, site: Site) -> ExportResult:
        return self.run_batch([self], site)[0]

    @classmethod
    def run_batch(cls, jobs: Sequence[Self], site: Site) -> list[ExportResult]:
        from converters.export import export
        from converters.imatrix import ImportanceMatrix
        from converters.resolver import open_source

        first = jobs[0]
        for job in jobs:
            if (label := recipe(job.quant).label) != job.label:
                raise InputError(f"{job.quant}: the mix has changed since the run was planned ({job.label} to {label})")
        paths = {job.quant: site.path(job.file) for job in jobs}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        matrix = next((site.path(job.imatrix) for job in jobs if job.imatrix is not None), None)
        plans = export(
            open_source(site.path(first.source), first.name, requantize=True),  # planning asked for consent
            paths,
            lambda at: site.report_progress(at.done_bytes, at.total_bytes),
            site.resources.threads,
            None if matrix is None else ImportanceMatrix.read(matrix).importance(matrix.name),
        )
        written = (plans[job.quant] for job in jobs)
        return [ExportResult(plan.file_bytes, plan.bits_per_weight, plan.census) for plan in written]
