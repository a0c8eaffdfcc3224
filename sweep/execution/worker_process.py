"""Starts a worker process, sends it jobs and reads its answers. If the process dies, the answer is Failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.execution.protocol import Answer, Failed, Finished, Progressed
from sweep.execution.temporary_folder import TemporaryFolder
from sweep.jobs import serialization
from sweep.jobs.base import Job
from sweep.jobs.settings import ComputeResources
from sweep.own_code import SAFE_PYTHON, child_environment


class WorkerProcess:
    """One worker process. Use it as a context manager.

    `log` is the file for everything that it and native code write to stderr, until a job has a log of its own. `root`
    is the workspace's folder, which the names of files are relative to. `environment` holds additional environment
    variables.
    """

    def __init__(self, log: Path, root: Path, environment: Mapping[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._temporary = TemporaryFolder()  # removed with the process, however that ends
        with open(log, "ab") as stderr:
            # The files that it writes to, the current one last, and where in each the messages of this job begin
            self._logs = {log: stderr.tell()}
            self._process = subprocess.Popen(
                [*SAFE_PYTHON, "-m", "sweep.execution.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                env={**child_environment(), **(environment or {}), "TMPDIR": str(self._temporary.path)},
                start_new_session=True,  # the sweep handles Ctrl-C, not its workers
            )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(
        self, id: str, jobs: Sequence[Job[Any]], resources: ComputeResources, log: Path | None = None
    ) -> Iterator[Answer]:
        """Run one job, or the jobs of one batch, and write their messages to `log` if it is given. Yields
        progress, then one final answer."""
        began = time.monotonic()
        if log is not None:
            first = next(iter(self._logs))
            self._logs = {first: self._logs[first], log: _size(log)}
        for answer in self._answers(id, jobs, resources):
            if isinstance(answer, Progressed):
                yield answer
            else:
                # what these jobs wrote explains the end of no later one
                self._logs = {log: _size(log) for log in self._logs}
                yield replace(answer, seconds=time.monotonic() - began)

    def _answers(self, id: str, jobs: Sequence[Job[Any]], resources: ComputeResources) -> Iterator[Answer]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "jobs": [serialization.job_to_json(job) for job in jobs],
            "resources": serialization.to_json(resources),
            "root": str(self._root),
            "log": str([*self._logs][-1]),
        }
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            yield self._exit_reason(id)
            return
        dying = ""
        for line in self._process.stdout:
            answer = json.loads(line)
            if "dying" in answer:
                dying = answer["dying"]
            elif "progress" in answer:
                yield Progressed(id, *answer["progress"])
            elif "done" in answer:
                rows = zip(answer["done"], jobs, strict=True)
                results = tuple(serialization.from_json(row, type(job).result_type) for row, job in rows)
                yield Finished(id, results, 0.0, resources)
                return
            else:
                yield serialization.from_json({**answer, "id": id}, Failed)
                return
        yield self._exit_reason(id, dying)

    def interrupt(self) -> None:
        """Kill the process while a job runs, from another thread. The job is then answered with Failed."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the process and every process that it started."""
        self.interrupt()
        self._process.wait()
        self._temporary.remove()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # unsent bytes of a job for a dead process: nobody needs them
                    continue

    def _exit_reason(self, id: str, message: str = "") -> Failed:
        code = self._process.wait()
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        message = message or self._last_log_line()
        if code == -signal.SIGKILL and not message:
            message = "most likely out of memory"
        return Failed(id, f"the worker died ({cause}){': ' + message if message else ''}", died=True)

    def _last_log_line(self) -> str:
        """The last line of the job's log; of the first log if the process ended before it began with the job."""
        for log, start in reversed(self._logs.items()):
            lines = log.read_bytes()[start:].decode(errors="replace").splitlines() if log.exists() else []
            if found := [line.strip() for line in lines if line.strip()]:
                return found[-1]
        return ""


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
