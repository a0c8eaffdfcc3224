"""Temporary folders of workers: those of killed processes are removed, those of running processes stay."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sweep.execution.temporary_folder import PREFIX, TemporaryFolder

OTHER = """
import sys, time
from sweep.execution.temporary_folder import TemporaryFolder
folder = TemporaryFolder()
(folder.path / "file").touch()
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_the_folder_of_a_killed_process_is_removed_when_the_next_one_starts(directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        other = Path(process.stdout.readline().strip())
        assert (other.parent, other.name.startswith(PREFIX)) == (directory, True)
        own = TemporaryFolder()
        assert (other / "file").exists()  # its process is alive
        process.kill()
    assert (other / "file").exists()
    next_one = TemporaryFolder()
    assert sorted(directory.iterdir()) == sorted([own.path, next_one.path])
    own.remove()
    next_one.remove()
    assert list(directory.iterdir()) == []


def test_folders_without_the_prefix_stay(directory: Path) -> None:
    (directory / "bitsweep-code-abc").mkdir()
    TemporaryFolder().remove()
    assert [path.name for path in directory.iterdir()] == ["bitsweep-code-abc"]


def test_a_file_system_without_locks_is_no_obstacle(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    folder, other = TemporaryFolder(), TemporaryFolder()
    assert sorted(directory.iterdir()) == sorted([folder.path, other.path])
    folder.remove()
    other.remove()
    assert list(directory.iterdir()) == []
