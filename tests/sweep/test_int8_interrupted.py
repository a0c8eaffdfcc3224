"""`sweep int8` is killed while it writes, or the disk is full: no partial directory has the final name, and the next
try succeeds."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import InputError
from int8.atomic_directory import atomic_directory
from int8.checkpoint import load

ARGUMENTS = ["int8", "micro", "--recipe", "w8a16"]
KILLED = """
import os, signal, sys
from int8 import checkpoint
written = checkpoint.write_tensors
def write(*given):
    written(*given)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_tensors = write
"""
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
"""
MAIN = "from sweep.cli import main; main()"


def sweep(script: str, out: Path, workspace: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script + MAIN, *ARGUMENTS, "--out", str(out), "--workspace", str(workspace)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_process_killed_while_writing_leaves_no_directory_under_the_final_name(tmp_path: Path) -> None:
    out, workspace = tmp_path / "place" / "out", tmp_path / "workspace"
    assert sweep(KILLED, out, workspace).returncode == -signal.SIGKILL
    (left,) = out.parent.iterdir()  # the weights are written, the other files are not
    assert left.name == ".out.partial"
    assert not (left / "config.json").exists()
    assert sum(file.stat().st_size for file in left.iterdir()) > 5_000_000
    done = sweep("", out, workspace)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    load(out)


def test_a_full_disk_gives_one_line_and_no_file(tmp_path: Path) -> None:
    out = tmp_path / "place" / "out"
    done = sweep(FULL, out, tmp_path / "workspace")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"sweep: {out}: cannot be written: ")
    assert "too large" in line.lower()
    assert not list(out.parent.iterdir())


def test_two_processes_cannot_write_one_directory(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_directory(out) as temporary_path:
        (temporary_path / "mine").write_text("mine")
        with pytest.raises(InputError, match="another process is writing it"), atomic_directory(out):
            raise AssertionError
        assert not out.exists()
    assert (out / "mine").read_text() == "mine"
    assert not temporary_path.exists()


def test_files_of_a_killed_process_are_not_reused(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    (left / "below").mkdir(parents=True)
    (left / "old.safetensors").write_text("of another recipe")
    (left / "link").symlink_to(tmp_path)
    with atomic_directory(tmp_path / "out") as temporary_path:
        assert temporary_path == left
        (temporary_path / "new").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_an_error_while_writing_leaves_no_file_and_releases_the_lock(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_directory(tmp_path / "deep" / "out") as temporary_path:
            (temporary_path / "half").write_text("half")
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert not list((tmp_path / "deep").iterdir())
