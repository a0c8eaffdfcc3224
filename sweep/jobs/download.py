"""The job that downloads a published GGUF file, with all its parts."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from converters.atomic import publish
from converters.errors import InputError
from converters.hub import HUB
from converters.hub_files import RepositoryFile, download
from converters.partial import partial_name
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob
from sweep.jobs.settings import ComputeResources

_FREE = 64 << 20
"""Bytes of free space below which a disk counts as full."""


@dataclass(frozen=True)
class DownloadResult(Result):
    """The size of the file, and the bytes of it that this download brought; the others were there from an earlier
    one."""

    file_bytes: int
    downloaded_bytes: int = 0

    @property
    def summary(self) -> str:
        return fmt.size(self.file_bytes)


@dataclass(frozen=True)
class DownloadJob(StoredJob[DownloadResult]):
    """Download the parts of a file of `repository` at `revision` to the directory `folder`.

    `content` identifies the content of all parts, whatever their revision. An interrupted download is resumed from
    where it broke.
    """

    kind = "download"
    result_type = DownloadResult
    weight = 0.5
    is_preparation = True
    auxiliary = True
    output_is_model = True
    output_is_download = True
    in_background = True

    repository: str
    revision: str
    parts: tuple[RepositoryFile, ...]
    folder: Artefact
    content: str

    @property
    def file(self) -> Artefact:
        """The file that llama.cpp opens: the first part."""
        return Artefact(f"{self.folder.name}/{Path(self.parts[0].path).name}")

    @property
    def spec(self) -> str:
        """The file on the hub."""
        return f"{HUB}{self.repository}/{self.parts[0].path}"

    def identity(self, resources: ComputeResources) -> Any:
        return {"kind": self.kind, "procedure": self.procedure, "content": self.content}

    @property
    def output(self) -> Artefact:
        return self.folder

    @property
    def work_units(self) -> int:
        return sum(part.size for part in self.parts)

    def run(self, site: Site) -> DownloadResult:
        target, total = site.path(self.folder), self.work_units
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if target.is_dir():  # another run was faster
                return DownloadResult(total)
            partial = target.with_name(partial_name(target))
            partial.mkdir(exist_ok=True)
            there = sum(file.stat().st_size for file in partial.iterdir())
            self._require_space(partial, total - there)
            done = 0
            try:
                for part in self.parts:
                    file = partial / Path(part.path).name
                    before = done

                    def report(count: int, before: int = before) -> None:
                        site.report_progress(before + count, total)

                    download(self.repository, self.revision, part, file, report)
                    done += part.size
                publish(partial, target)
            except InputError:
                is_full = shutil.disk_usage(target.parent).free < _FREE  # the space is for the files of other variants
                if is_full or not any(file.stat().st_size for file in partial.iterdir()):
                    shutil.rmtree(partial, ignore_errors=True)
                raise
        return DownloadResult(total, max(0, total - there))

    def _require_space(self, folder: Path, needed: int) -> None:
        free = shutil.disk_usage(folder).free
        if needed > free:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(
                f"{self.spec}: needs {fmt.size(needed)} on the disk of {folder.parent}, which has {fmt.size(free)}"
                " free; free some space, or choose another --workspace"
            )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait until no other process downloads to `target`."""
    lock = target.with_name(f".{target.name}.lock")
    while True:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_still(lock, file):  # the process that had it removed it: others do not see this lock
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_still(path: Path, file: IO[str]) -> bool:
    """Whether the open file is the one at this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
