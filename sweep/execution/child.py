"""A worker process seen from the sweep: jobs go in, answers come out, and its death is an answer too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InputError, MissingRuntime


@dataclass(frozen=True)
class Failed:
    """Why a job gave no result. `input`: the user's input is to blame; `missing`: a library or device is not there;
    `died`: the process is gone."""

    message: str
    input: bool = False
    missing: bool = False
    died: bool = False

    @property
    def error(self) -> InputError | MissingRuntime:
        """What to raise where there is nothing without the result: whatever else befell the worker is laid to what it
        was given."""
        return MissingRuntime(self.message) if self.missing else InputError(self.message)


class Child:
    """One worker. `log` takes what it and native code write to stderr. Use it as a context manager."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._scratch = tempfile.TemporaryDirectory(prefix="bitsweep-")  # goes with the process, however that ends
        with open(log, "ab") as stderr:
            self._log_start = stderr.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sweep.execution.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "TMPDIR": self._scratch.name},
                start_new_session=True,  # Ctrl-C is for the sweep to act on, not for each child
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def submit(self, job: dict[str, Any]) -> Iterator[tuple[int, int, str] | dict[str, Any] | Failed]:
        """Run a job: progress as (done, total, what is at work), then its result, or Failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            yield self._obituary()
            return
        dying = ""
        for line in self._process.stdout:
            answer = json.loads(line)
            if "dying" in answer:
                dying = answer["dying"]
            elif "progress" in answer:
                done, total, part = answer["progress"]
                yield done, total, part
            elif "done" in answer:
                yield answer["done"]
                return
            else:
                yield Failed(answer["failed"], input=answer.get("input", False), missing=answer.get("missing", False))
                return
        yield self._obituary(dying)

    def interrupt(self) -> None:
        """End the process while a job runs, from another thread: the job is answered with Failed."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process and everything it started."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._scratch.cleanup()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # unsent bytes of a job to a dead process: nobody waits for them
                    continue

    def _obituary(self, words: str = "") -> Failed:
        code = self._process.wait()
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = words or self._last_words()
        if code == -signal.SIGKILL and not words:
            words = "most likely out of memory"
        return Failed(f"the worker died ({cause}){': ' + words if words else ''}", died=True)

    def _last_words(self) -> str:
        with open(self.log, "rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
