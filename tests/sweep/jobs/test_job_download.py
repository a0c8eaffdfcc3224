"""The job that downloads a published file, on a disk that is or becomes full."""

import resource
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converters import hub_files
from converters.errors import InputError
from converters.hub_files import RepositoryFile
from sweep.artefact import Artefact
from sweep.jobs import download
from sweep.jobs.base import Site

Usage = namedtuple("Usage", "total used free")
JOB = download.DownloadJob(
    "org/r", "0123", (RepositoryFile("a/b.gguf", 1000, "oid"),), Artefact("artefacts/m/b-1"), "content"
)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_file_that_is_larger_than_the_free_space_is_not_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: Usage(2000, 1001, 999))
    with pytest.raises(InputError, match=r"a/b\.gguf: needs 0\.98 KiB on the disk of .*, which has 999 B free"):
        JOB.run(Site(tmp_path))
    assert files(tmp_path) == []


@pytest.mark.parametrize(("free", "kept"), [(1000, 0), (1 << 40, 1)])
def test_what_was_downloaded_is_kept_unless_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kept: int
) -> None:
    def broken(_repository: str, _revision: str, file: RepositoryFile, to: Path, _progress: object) -> None:
        to.write_bytes(b"x" * 300)
        raise InputError(f"{file.path}: broke")

    monkeypatch.setattr(download, "download", broken)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: Usage(free, 0, free))
    with pytest.raises(InputError, match="broke"):
        JOB.run(Site(tmp_path))
    assert [path.name for path in files(tmp_path)] == ["b.gguf"] * kept
    assert not (tmp_path / "artefacts/m/b-1").exists()


def test_a_disk_that_fills_during_a_download_gives_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def served(_repository: str, _revision: str, _path: str, start: int, stop: int) -> Iterator[Iterator[bytes]]:
        yield iter([b"x" * 100] * ((stop - start) // 100))

    monkeypatch.setattr(hub_files, "_bytes", served)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))  # the system refuses to write more to a file
        with pytest.raises(
            InputError, match=r"b\.gguf: the disk is full .*; this file needs 1000 bytes; free some space"
        ):
            JOB.run(Site(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "artefacts/m/b-1").exists()
    assert JOB.run(Site(tmp_path)).downloaded_bytes == 400  # there is space again: the rest is downloaded
    assert (tmp_path / "artefacts/m/b-1/b.gguf").stat().st_size == 1000
