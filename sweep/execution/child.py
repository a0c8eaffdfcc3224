"""A worker process seen from the program: a job goes in, answers come out, and its death is an answer too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.execution.protocol import Answer, Failed, Finished, Progressed
from sweep.jobs import wire
from sweep.jobs.base import Job
from sweep.jobs.settings import Where


class Child:
    """One worker. `log` takes what it and native code write to stderr. Use it as a context manager.

    `root` is the workspace that names of files are below, `environment` what its own says beside this process's.
    """

    def __init__(self, log: Path, root: Path, environment: Mapping[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self._root = log, root
        self._scratch = tempfile.TemporaryDirectory(prefix="bitsweep-")  # goes with the process, however that ends
        with open(log, "ab") as stderr:
            self._log_start = stderr.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sweep.execution.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **(environment or {}), "TMPDIR": self._scratch.name},
                start_new_session=True,  # Ctrl-C is for the sweep to act on, not for each child
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, id: str, jobs: Sequence[Job[Any]], where: Where) -> Iterator[Answer]:
        """Run jobs of one kind in one go: progress, then what came of it."""
        began = time.monotonic()
        for answer in self._answers(id, jobs, where):
            yield answer if isinstance(answer, Progressed) else replace(answer, seconds=time.monotonic() - began)

    def _answers(self, id: str, jobs: Sequence[Job[Any]], where: Where) -> Iterator[Answer]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"jobs": [wire.job_row(job) for job in jobs], "where": wire.plain(where), "root": str(self._root)}
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
                results = tuple(wire.typed(row, type(job).found) for row, job in zip(answer["done"], jobs, strict=True))
                yield Finished(id, results, 0.0, where)
                return
            else:
                yield wire.typed({**answer, "id": id}, Failed)
                return
        yield self._exit_reason(id, dying)

    def interrupt(self) -> None:
        """End the process while a job runs, from another thread: the job is answered with Failed."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process and everything it started."""
        self.interrupt()
        self._process.wait()
        self._scratch.cleanup()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # unsent bytes of a job to a dead process: nobody waits for them
                    continue

    def _exit_reason(self, id: str, words: str = "") -> Failed:
        code = self._process.wait()
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = words or self._last_words()
        if code == -signal.SIGKILL and not words:
            words = "most likely out of memory"
        return Failed(id, f"the worker died ({cause}){': ' + words if words else ''}", died=True)

    def _last_words(self) -> str:
        with open(self.log, "rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
