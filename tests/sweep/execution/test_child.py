"""A worker process: its answers, its end with its parent, and its death."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from converters.errors import InputError, MissingRuntime
from sweep.execution.child import Child, Failed


def test_an_unknown_job_fails_and_the_worker_lives_on(tmp_path: Path) -> None:
    with Child(tmp_path / "log") as child:
        for _ in range(2):
            (answer,) = child.submit({"kind": "no such job"})
            assert isinstance(answer, Failed)
            assert not answer.died
        assert child.alive


def test_bad_input_is_told_apart_from_a_fault(tmp_path: Path) -> None:
    with Child(tmp_path / "log") as child:
        job = {
            "kind": "export",
            "source": str(tmp_path / "none"),
            "name": "x",
            "targets": {},
            "threads": 1,
            "imatrix": None,
        }
        (answer,) = child.submit(job)
    assert isinstance(answer, Failed)
    assert answer.input
    assert not answer.missing
    assert isinstance(answer.error, InputError)
    assert str(tmp_path / "none") in answer.message


@pytest.mark.slow
def test_a_missing_runtime_is_told_in_its_own_words(tmp_path: Path) -> None:
    job: dict[str, object] = {"kind": "quantize", "source": str(tmp_path), "name": "x", "recipe": {"name": "w8a16"}}
    job |= {"text": None, "text_name": "", "file": str(tmp_path / "out"), "cache": str(tmp_path / "cache")}
    with Child(tmp_path / "log") as child:
        (answer,) = child.submit(job | {"settings": {"threads": 1, "device": "cuda:99"}})
    assert isinstance(answer, Failed)
    assert answer.missing
    assert not answer.input
    assert answer.message.startswith("cuda:99: ")
    assert isinstance(answer.error, MissingRuntime)


def test_a_killed_worker_is_an_answer(tmp_path: Path) -> None:
    with Child(tmp_path / "log") as child:
        os.kill(child._process.pid, signal.SIGKILL)
        (answer,) = child.submit({"kind": "sizes"})
        assert isinstance(answer, Failed)
        assert answer.died
        assert "SIGKILL" in answer.message
        assert not child.alive


def test_what_a_killed_worker_had_in_temporary_files_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Child(tmp_path / "log") as child:
        (scratch,) = tmp_path.glob("bitsweep-*")
        environment = Path(f"/proc/{child._process.pid}/environ")
        if environment.exists():
            assert f"TMPDIR={scratch}".encode() in environment.read_bytes().split(b"\0")
        (scratch / "ghost.gguf").write_bytes(b"")
        os.kill(child._process.pid, signal.SIGKILL)
    assert not scratch.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from sweep.running.child import Child; import time\n"
        f"c = Child(Path({str(tmp_path / 'log')!r})); print(c._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
