"""GGUF files that somebody published in a repository on the hub. Each is downloaded when it is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from converters.gguf_repository import GGUFRepository, PublishedFile, publisher_names
from converters.hub import HUB, HubFile
from converters.hub_files import RepositoryFile
from converters.llamacpp.reader import read_header
from sweep.artefact import Artefact
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.download import DownloadJob
from sweep.jobs.inputs import ImatrixFile, Origin
from sweep.jobs.model import MeasuredModel, engine_versions
from sweep.jobs.projector import ProjectorJob
from sweep.methods.base import Variant, preparation_cell
from sweep.methods.gguf import AS_THE_SWEEP, Axes, GGUFFile, with_cache
from sweep.methods.projector import image_inputs, projector_job


@dataclass(frozen=True)
class PublishedGGUF(GGUFFile):
    """A file of a repository on the hub. `file` is the copy of its header, which is enough for everything but to run
    it; `content` identifies its content, whatever its revision. `projectors` are the projector files there, of which
    copies of the headers are next to `file`."""

    usage = "hub:ORG/NAME"

    repository: str = ""
    revision: str = ""
    parts: tuple[RepositoryFile, ...] = ()
    content: str = ""
    projectors: tuple[RepositoryFile, ...] = ()

    def with_file(self, say: Callable[[str], None], download: bool) -> Self:
        return self  # a job downloads it

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        job = self.download(inputs)
        cached = HubFile(self.repository, self.revision, tuple(part.path for part in self.parts)).cached()
        file = job.file if cached is None else Artefact.of(cached)
        settings = with_cache(inputs.settings, self.cache)
        model = MeasuredModel(self.opener, file, self.content, engine_versions(self.opener), settings)
        cells = [] if cached is not None else [preparation_cell(self, "download", job, inputs)]
        if inputs.images is None or self.file is None:
            return cells, model
        tower = projector_job(self.name, self.projector, read_header(self.file).metadata, self.file, inputs)
        fetch, tower = self._published_projector(tower, inputs)
        cells += fetch
        cells.append(preparation_cell(self, "projector", tower, inputs, tuple(cell.key for cell in fetch)))
        return cells, replace(model, images=image_inputs(tower, inputs))

    def _published_projector(self, job: ProjectorJob, inputs: SweepInputs) -> tuple[list[Cell], ProjectorJob]:
        """The cell that downloads a projector file of the repository, and the job for the downloaded file. The job is
        unchanged if its file is one of the user."""
        header = Path(job.file.name)
        entries = {Path(one.path).name: one for one in self.projectors}
        if self.file is None or header.parent != self.file.parent:
            return [], job
        entry = entries[header.name]
        folder = inputs.artefact(f"{header.stem}-{entry.content[:8]}")
        download = DownloadJob(self.repository, self.revision, (entry,), folder, entry.content)
        cached = HubFile(self.repository, self.revision, (entry.path,)).cached()
        file = download.file if cached is None else Artefact.of(cached)
        cells = [] if cached is not None else [preparation_cell(self, "projector-download", download, inputs)]
        return cells, replace(job, file=file, content=entry.content, header=Artefact.of(header))

    @property
    def file_name(self) -> str:
        """The variant's name without what it says of how the file is run."""
        return self.name.removesuffix(self.axes.suffix)

    def download(self, inputs: SweepInputs) -> DownloadJob:
        """The job that downloads the file, the same for all variants that differ only in how it is run."""
        name = re.sub(r"[^\w.-]", "-", self.file_name.partition(":")[2])
        folder = inputs.artefact(f"{name}-{self.content[:8]}")
        return DownloadJob(self.repository, self.revision, self.parts, folder, self.content)

    def as_origin(self, inputs: SweepInputs) -> Origin:
        """See the base class. The file is downloaded first."""
        cells, model = self.prepare(replace(inputs, images=None), None)
        needs = tuple(cell.key for cell in cells)
        return replace(inputs.origin, fingerprint=self.content, weights=model.file, needs=needs)

    def distinct_name(self, text: str) -> str:
        return f"{HUB}{self.repository}/{self.name.partition(':')[2]}"


def published_variant(repository: GGUFRepository, file: PublishedFile, axes: Axes = AS_THE_SWEEP) -> Variant:
    """The variant that a file of a repository is, in a directory or on the hub, if it is run as `axes` say."""
    name = repository.variant(file) + axes.suffix
    if repository.revision is None:
        return GGUFFile(name, file.path, axes.projector, axes.cache)
    return PublishedGGUF(
        name,
        file.path,
        axes.projector,
        axes.cache,
        repository=repository.repository,
        revision=repository.revision,
        parts=file.parts,
        content=file.content,
        projectors=repository.projectors,
    )


def with_publishers(variants: Sequence[Variant]) -> list[Variant]:
    """The variants, with their publishers in the names of files of several repositories that have the same name."""
    published = [one for one in variants if isinstance(one, PublishedGGUF)]
    names = publisher_names([(one.repository, one.file_name) for one in published])
    renamed = {id(one): name + one.axes.suffix for one, name in zip(published, names, strict=True)}
    return [replace(one, name=renamed[id(one)]) if id(one) in renamed else one for one in variants]


def same_file_notes(variants: Sequence[Variant]) -> list[str]:
    """A line for each file that several of these variants are because it was published more than once."""
    alike: dict[str, list[str]] = {}
    for one in variants:
        if isinstance(one, PublishedGGUF):
            alike.setdefault(one.content, []).append(one.file_name)
    several = [list(dict.fromkeys(names)) for names in alike.values()]
    return [f"{', '.join(names)}: the same file, which is measured once" for names in several if len(names) > 1]
