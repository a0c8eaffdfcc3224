"""The worker process, which runs jobs and native code: it reads requests as JSON lines from stdin and writes answers as
JSON lines to stdout.

A request is {"jobs": [...], "resources": ..., "root": ..., "log": ...}: one job, or the jobs of one batch. From then
on, stderr goes to the file `log`; if it is missing, to where it went before. The answers are
{"progress": [done, total, part]} any number of times, then {"done": [result, ...]} or {"message": ...}. The latter has
"input" if the user's input is to blame and "missing" if a library or device is missing. {"dying": message} is the last
message of native code before it aborts. The process ends when stdin ends, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from converters.errors import InputError, MissingRuntime

if TYPE_CHECKING:
    from sweep.jobs.base import Job, Result, Site

PROGRESS_EVERY = 0.2  # seconds


class AnswerWriter:
    """Writes answers to the original stdout. Everything that native code prints is redirected to stderr."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.begin()

    def send(self, **answer: Any) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def begin(self) -> None:
        """Begin with the next jobs."""
        self._last, self._part = 0.0, ""

    def progress(self, done: int, total: int, part: str = "") -> None:
        """Send the first progress of each part at once, because the process may end in it."""
        now = time.monotonic()
        if now - self._last >= PROGRESS_EVERY or part != self._part:
            self._last, self._part = now, part
            self.send(progress=[done, total, part])


def _write_log_to(file: str) -> None:
    """Let stderr, and with it everything that native code prints, go to the end of this file."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent has ended; native code in the main thread must not keep this process alive


def main() -> None:
    # ggml would start gdb to print a backtrace, which can hang; datasets would start further processes
    os.environ.update(GGML_NO_BACKTRACE="1", DISABLE_MULTIPROC="1", TOKENIZERS_PARALLELISM="false")
    # By default, waiting threads spin for milliseconds, which makes a second sweep on this machine ten times slower.
    # 1000 is libgomp's own value for a process with more threads than cores, and does not slow down a single sweep.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    answers = AnswerWriter()
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()

    # these imports may print, so they come after the redirection of stdout
    from converters.llamacpp.bindings import on_abort
    from sweep.jobs import serialization
    from sweep.jobs.base import Site
    from sweep.jobs.settings import ComputeResources
    from sweep.measure.task_options import MeasurementError

    on_abort(lambda message: answers.send(dying=message))
    site = Site(Path(), progress=answers.progress)
    while True:
        request = json.loads(requests.get())
        answers.begin()
        if "log" in request:
            _write_log_to(request["log"])
        try:
            jobs = [serialization.job_from_json(row) for row in request["jobs"]]
            site.root, site.resources = (
                Path(request["root"]),
                serialization.from_json(request["resources"], ComputeResources),
            )
            done = [serialization.to_json(result) for result in _results(jobs, site)]
            answers.send(done=done)
        except InputError as error:
            answers.send(message=str(error), input=True)
        except MissingRuntime as error:
            answers.send(message=str(error), missing=True)
        except MeasurementError as error:
            answers.send(message=str(error))
        except Exception as error:  # an unexpected error fails only this cell, not the sweep
            traceback.print_exc()
            answers.send(message=f"{type(error).__name__}: {error}".splitlines()[0])


def _results(jobs: Sequence[Job[Any]], site: Site) -> Sequence[Result]:
    if len(jobs) == 1:
        return [jobs[0].run(site)]
    return type(jobs[0]).run_batch(jobs, site)  # type: ignore[attr-defined]  # only stored jobs have batches


if __name__ == "__main__":
    main()
