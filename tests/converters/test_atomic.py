"""A file under its final name is complete: after a full disk, an interrupt or a kill there is the old file or none."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from converters import atomic
from converters.atomic import PART, AtomicFile, write_text
from converters.errors import InputError
from converters.imatrix import ImportanceMatrix, ImportanceStatistics
from converters.partial import PartialFile

ROOT = Path(__file__).parents[2]
LARGE = 100_000


def whole(path: Path) -> None:
    with AtomicFile(path, LARGE) as file:
        file.write(b"a" * (LARGE // 2))
        file.write(b"b" * (LARGE // 2))


def by_a_library(path: Path) -> None:
    with AtomicFile(path) as file:
        file.temporary_path.write_bytes(b"c" * LARGE)


def partial(path: Path) -> None:
    with PartialFile(path, LARGE) as file:
        file.write(b"d" * LARGE, 0)
        file.finish()
        file.publish()


def imatrix(path: Path) -> None:
    seen = ImportanceStatistics(np.ones((1, LARGE // 4), np.float32), np.ones(1, np.float32))
    ImportanceMatrix({"blk.0.ffn_up.weight": seen}, ("text",), 512, 4).write(path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "whole file": whole,
    "text": lambda path: write_text(path, "é" * (LARGE // 2)),
    "partial file": partial,
    "importance matrix": imatrix,
}


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Limit the size of this process's files to `limit` bytes; larger writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(params=[False, True], ids=["new", "over an old one"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / "file.bin"
    if request.param:
        place.write_bytes(b"old")
    return place


def left_alone(path: Path, existed: bool) -> None:
    assert [file.name for file in path.parent.iterdir()] == ([path.name] if existed else [])
    assert not existed or path.read_bytes() == b"old"


@pytest.mark.parametrize("writer", WRITERS.values(), ids=list(WRITERS))
def test_a_full_disk_gives_a_one_line_error_and_leaves_no_file(path: Path, writer: Callable[[Path], None]) -> None:
    existed = path.exists()
    for limit in (10, LARGE - 1):  # fails at the first write, and when the rest is flushed
        with full_disk(limit), pytest.raises(InputError, match="the disk is full or a quota is reached") as error:
            writer(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
        left_alone(path, existed)
    writer(path)
    assert path.stat().st_size >= LARGE


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["^C", "full"])
@pytest.mark.parametrize("writer", [whole, by_a_library, partial])
def test_an_error_in_the_last_steps_leaves_no_file(
    path: Path,
    writer: Callable[[Path], None],
    failure: BaseException,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    existed = path.exists()

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(InputError if isinstance(failure, OSError) else KeyboardInterrupt):
        writer(path)
    left_alone(path, existed)


def test_an_error_in_the_block_leaves_no_file_and_is_not_reported_as_a_disk_error(path: Path) -> None:
    existed = path.exists()

    def half(error: BaseException) -> None:
        with AtomicFile(path) as file:
            file.write(b"half")
            raise error

    for error in (KeyboardInterrupt(), OSError("another file's"), ValueError("x")):
        with pytest.raises(type(error)) as raised:
            half(error)
        assert raised.value is error
        left_alone(path, existed)


def test_a_killed_process_leaves_the_old_file_and_a_recognizable_temporary_file(path: Path) -> None:
    existed = path.exists()
    script = f"""
import os
from pathlib import Path
from converters.atomic import AtomicFile
with AtomicFile(Path({str(path)!r})) as file:
    file.write(b"x" * 1_000_000)
    os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60)
    assert done.returncode == 9
    left = [file for file in path.parent.iterdir() if file != path]
    assert [(file.name[0], file.suffix) for file in left] == [(".", PART)]
    assert path.exists() == existed
    assert not existed or path.read_bytes() == b"old"


def test_two_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with AtomicFile(path) as first:
        first.write(b"first")
        with AtomicFile(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_file_has_the_permissions_of_an_ordinary_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_an_unwritable_place_is_reported_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for path, reason in ((tmp_path / "absent" / "x", "No such file or directory"), (tmp_path / "taken", "directory")):
        with pytest.raises(InputError, match=f"{path}: cannot be written: .*{reason}; choose another") as error:
            write_text(path, "text", "choose another")
        assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
    with AtomicFile(tmp_path / "new" / "x", make_parents=True) as file:
        file.write(b"")
    assert (tmp_path / "new" / "x").is_file()


def test_content_and_name_are_synced_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is synced before the rename, and the rename before the call returns."""
    order: list[str] = []
    replace, sync = os.replace, atomic.sync
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append("rename"), replace(old, new)))
    monkeypatch.setattr(
        atomic, "sync", lambda path: (order.append(f"sync {Path(path).suffix or 'folder'}"), sync(path))
    )
    write_text(tmp_path / "file", "text")
    assert order == [f"sync {PART}", "rename", "sync folder"]
