"""The job of a projector file: makes it from the checkpoint, or reads one of the user, and says how large it is.

All projector files of a checkpoint are written in one pass over its vision tower.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Job, Result, Site, StoredJob
from sweep.jobs.settings import ComputeResources


@dataclass(frozen=True)
class ProjectorResult(Result):
    """The size of a projector file, and the memory that it takes beside the text model: its weights and the compute
    buffer that llama.cpp reserves when it loads the file."""

    file_bytes: int
    weights_bytes: int
    compute_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.weights_bytes + self.compute_bytes

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class ProjectorJob(StoredJob[ProjectorResult]):
    """Write the vision tower of the checkpoint `source` to `file` as `quant`. Without `source`, `file` is the user's.

    `content` is a hash of the checkpoint's content, or of the file's. `label` is the quant with the version of its mix,
    `quant` the type's name, or the name of the user's file. `header` is a copy of the header of a file that has to be
    downloaded.
    """

    kind = "projector"
    result_type = ProjectorResult
    weight = 0.05
    is_preparation = True
    has_cell_per_variant = True
    output_is_model = True

    name: str
    quant: str
    label: str
    file: Artefact
    content: str
    engine: str
    source: Artefact | None = None
    header: Artefact | None = None

    def identity(self, resources: ComputeResources) -> Any:
        own = {"content": self.content, "quant": self.label, "engine": self.engine}
        name = {} if self.source is None else {"name": self.name}
        return {"kind": self.kind, "procedure": self.procedure, **own, **name}

    @property
    def output(self) -> Artefact | None:
        return None if self.source is None else self.file

    @property
    def essential(self) -> bool:
        return True

    @property
    def batch_key(self) -> Hashable | None:
        return None if self.source is None else (self.kind, self.source)

    def run(self, site: Site) -> ProjectorResult:
        return self.run_batch([self], site)[0]

    @classmethod
    def run_batch(cls, jobs: Sequence[Self], site: Site) -> list[ProjectorResult]:
        from converters.export import export
        from converters.projector_source import ProjectorSource
        from converters.resolver import open_source

        source = jobs[0].source
        if source is not None:
            paths = {job.quant: site.path(job.file) for job in jobs}
            for path in paths.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            tower = ProjectorSource(open_source(site.path(source), jobs[0].name))
            threads = site.resources.threads
            export(tower, paths, lambda at: site.report_progress(at.done_bytes, at.total_bytes), threads)
        return [_size(site.path(job.file)) for job in jobs]


@dataclass(frozen=True)
class ProjectorSizesResult(Result):
    """The sizes of projector files, by type or path."""

    sizes: Mapping[str, ProjectorResult] = field(default_factory=dict)


@dataclass(frozen=True)
class ProjectorSizesJob(Job[ProjectorSizesResult]):
    """Predict the sizes of projector files of `model`, a path or a name of the catalogue: `chosen` are types of files
    that would be made from it, and paths of existing files."""

    kind = "projector_sizes"
    result_type = ProjectorSizesResult

    model: str
    name: str
    chosen: tuple[str, ...]

    def run(self, site: Site) -> ProjectorSizesResult:
        from converters.resolver import Need, open_source
        from sweep.fit.fit_report import FitOptions
        from sweep.fit.projector import projector_fit

        source = open_source(self.model, self.name, requantize=True, need=Need.PLAN)
        found = {chosen: projector_fit(source, self.name, FitOptions(mmproj=chosen)) for chosen in self.chosen}
        return ProjectorSizesResult(
            {
                chosen: ProjectorResult(one.file_bytes, one.weights_bytes, one.compute_bytes)
                for chosen, one in found.items()
            }
        )


def _size(path: Path) -> ProjectorResult:
    from converters.llamacpp.projector import projector_memory
    from converters.llamacpp.reader import read_header

    header = read_header(path)
    return ProjectorResult(header.file_bytes, header.tensor_bytes, projector_memory(path, path))
