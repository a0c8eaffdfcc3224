"""GGUF files that somebody published in a repository on the hub. Each is downloaded when it is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from converters.gguf_repository import HUB, GGUFRepository, PublishedFile, publisher_names
from converters.hub import HubFile
from converters.hub_files import RepositoryFile
from converters.llamacpp.reader import read_header
from sweep.artefact import Artefact
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.download import DownloadJob
from sweep.jobs.inputs import ImatrixFile, Origin
from sweep.jobs.model import MeasuredModel, engine_versions
from sweep.methods.base import Variant, preparation_cell
from sweep.methods.gguf import GGUFFile, with_cache, with_projector


@dataclass(frozen=True)
class PublishedGGUF(GGUFFile):
    """A file of a repository on the hub. `file` is the copy of its header, which is enough for everything but to run
    it; `content` identifies its content, whatever its revision."""

    usage = "hub:ORG/NAME"

    repository: str = ""
    revision: str = ""
    parts: tuple[RepositoryFile, ...] = ()
    content: str = ""

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
        metadata = read_header(self.file).metadata
        cell, model = with_projector(self, self.projector, model, metadata, self.file, inputs)
        return [*cells, cell], model

    def download(self, inputs: SweepInputs) -> DownloadJob:
        """The job that downloads the file."""
        name = re.sub(r"[^\w.-]", "-", self.name.partition(":")[2])
        folder = inputs.artefact(f"{name}-{self.content[:8]}")
        return DownloadJob(self.repository, self.revision, self.parts, folder, self.content)

    def as_origin(self, inputs: SweepInputs) -> Origin:
        """The origin of quants that are made from this file, with `inputs`' name and header."""
        cells, model = self.prepare(replace(inputs, images=None), None)
        needs = tuple(cell.key for cell in cells)
        return replace(inputs.origin, fingerprint=self.content, weights=model.file, needs=needs)

    def distinct_name(self, text: str) -> str:
        return f"{HUB}{self.repository}/{self.name.partition(':')[2]}"


def published_variant(repository: GGUFRepository, file: PublishedFile) -> Variant:
    """The variant that a file of a repository is, in a directory or on the hub."""
    name = repository.variant(file)
    if repository.revision is None:
        return GGUFFile(name, file.path)
    return PublishedGGUF(
        name,
        file.path,
        repository=repository.repository,
        revision=repository.revision,
        parts=file.parts,
        content=file.content,
    )


def with_publishers(variants: Sequence[Variant]) -> list[Variant]:
    """The variants, with their publishers in the names of files of several repositories that have the same name."""
    published = [one for one in variants if isinstance(one, PublishedGGUF)]
    names = publisher_names([(one.repository, one.name) for one in published])
    renamed = dict(zip(map(id, published), names, strict=True))
    return [replace(one, name=renamed[id(one)]) if id(one) in renamed else one for one in variants]
