"""A worker process: its answers, and what happens when it or its parent is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import psutil
import pytest

from converters.errors import InputError
from int8.recipe import NAMED
from sweep.artefact import Artefact
from sweep.execution.local import LocalHost
from sweep.execution.protocol import Failed
from sweep.execution.worker_process import WorkerProcess
from sweep.jobs.base import JobFailed
from sweep.jobs.export import ExportJob
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.sizes import SizesJob

SIZES = SizesJob("micro", "micro", ("Q4_0",), Settings())


def test_a_job_that_fails_leaves_the_worker_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of each job has only its own messages, and a worker's death is explained by the last job's."""
    monkeypatch.setattr(SizesJob, "kind", "no such job")
    first, *logs = [tmp_path / name for name in ("first", "a", "b", "c")]
    with WorkerProcess(first, tmp_path) as worker:
        for log in logs[:2]:
            (answer,) = worker.run("1", [SIZES], ComputeResources(), log)
            assert isinstance(answer, Failed)
            assert not answer.died
        assert worker.alive
        os.kill(worker._process.pid, signal.SIGSTOP)  # so that it takes the job, and dies with it
        Timer(0.2, worker.interrupt).start()
        (answer,) = worker.run("1", [SIZES], ComputeResources(), logs[2])
        assert isinstance(answer, Failed)
        assert answer.message.endswith("most likely out of memory")
    assert first.read_text() == ""
    assert [log.read_text().count("Traceback") for log in logs if log.exists()] == [1, 1]


def test_bad_input_is_distinguished_from_an_unexpected_error(tmp_path: Path) -> None:
    job = ExportJob(Artefact.of(tmp_path / "none"), "x", "Q4_0", Artefact("x.gguf"), "f", "Q4_0", "e")
    with WorkerProcess(tmp_path / "log", tmp_path) as worker:
        (answer,) = worker.run("1", [job], ComputeResources())
    assert isinstance(answer, Failed)
    assert answer.input
    assert not answer.missing
    assert str(tmp_path / "none") in answer.message
    with LocalHost(tmp_path) as host, pytest.raises(InputError) as error:
        host.run_job(job)
    assert not isinstance(error.value, JobFailed)


def test_a_host_runs_its_jobs_in_one_worker_and_replaces_a_dead_one(tmp_path: Path) -> None:
    """A worker's death is explained by what its last job wrote."""
    log = tmp_path / "log"
    with LocalHost(tmp_path, log) as host:
        host.run_job(SIZES)
        first = host._worker
        assert first is not None
        with pytest.raises(InputError, match="no such"):
            host.run_job(SizesJob(str(tmp_path / "no such model"), "x", ("Q4_0",), Settings()))
        host.run_job(SIZES)
        assert host._worker is first
        with open(log, "a") as file:
            file.write("a message of an earlier job\n")
        host.run_job(SIZES)
        os.kill(first._process.pid, signal.SIGSTOP)  # so that it takes the job, and dies with it
        Timer(0.2, first.interrupt).start()
        with pytest.raises(JobFailed, match=r"SIGKILL\): most likely out of memory") as error:
            host.run_job(SIZES)
        assert error.value.died
        host.run_job(SIZES)
        assert host._worker is not first
        second = host._worker
        assert second is not None
    assert not second.alive


@pytest.mark.slow
def test_the_message_of_a_missing_runtime_is_passed_on(tmp_path: Path) -> None:
    job = Int8CheckpointJob(Artefact.of(tmp_path), "x", NAMED["w8a16"], "made", "f", "e")
    with WorkerProcess(tmp_path / "log", tmp_path) as worker:
        (answer,) = worker.run("1", [job], ComputeResources(1, {"torch": "cuda:99"}))
    assert isinstance(answer, Failed)
    assert answer.missing
    assert not answer.input
    assert answer.message.startswith("cuda:99: ")


def test_a_killed_worker_is_answered_as_failed(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path / "log", tmp_path) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        (answer,) = worker.run("1", [SIZES], ComputeResources())
        assert isinstance(answer, Failed)
        assert answer.died
        assert "SIGKILL" in answer.message
        assert not worker.alive


def test_the_temporary_files_of_a_killed_worker_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with WorkerProcess(tmp_path / "log", tmp_path) as worker:
        (scratch,) = tmp_path.glob("bitsweep-*")
        environment = Path(f"/proc/{worker._process.pid}/environ")
        if environment.exists():
            assert f"TMPDIR={scratch}".encode() in environment.read_bytes().split(b"\0")
        (scratch / "ghost.gguf").write_bytes(b"")
        os.kill(worker._process.pid, signal.SIGKILL)
    assert not scratch.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from sweep.execution.worker_process import WorkerProcess; import time\n"
        f"c = WorkerProcess(Path({str(tmp_path / 'log')!r}), Path()); print(c._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
