"""The child process that does the native work: requests come in as JSON lines on stdin, answers go out on stdout.

A request is {"jobs": [...], "where": ..., "root": ...}: jobs of one kind, to be done in one go. Answers are
{"progress": [done, total, part]} any number of times, then {"done": [result, ...]} or {"message": ...},
with "input" where the input is to blame and "missing" where a library or device is not there; {"dying": message} is
native code's last word before it aborts. The process ends when stdin does, so it never outlives its parent.
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


class Answers:
    """Where answers go: the stdout this process was started with. What native code prints goes to stderr instead."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._last = 0.0

    def send(self, **answer: Any) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def progress(self, done: int, total: int, part: str = "") -> None:
        now = time.monotonic()
        if now - self._last >= PROGRESS_EVERY:
            self._last = now
            self.send(progress=[done, total, part])


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone; native code in the main thread must not keep this process alive


def main() -> None:
    # gdb, which ggml would start to print a backtrace, can hang; datasets would start processes of its own
    os.environ.update(GGML_NO_BACKTRACE="1", DISABLE_MULTIPROC="1", TOKENIZERS_PARALLELISM="false")
    # threads that wait spin for milliseconds by default, which slows a second sweep beside this one tenfold; 1000 is
    # what libgomp takes by itself where one process has more threads than cores, and costs a lone sweep nothing
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    answers = Answers()
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()

    # after stdout is safe
    from converters.llamacpp.bindings import on_abort
    from sweep.jobs import wire
    from sweep.jobs.base import Site
    from sweep.jobs.settings import Where
    from sweep.measure.task_options import MeasurementError

    on_abort(lambda message: answers.send(dying=message))
    site = Site(Path(), progress=answers.progress)
    while True:
        request = json.loads(requests.get())
        try:
            jobs = [wire.job_of(row) for row in request["jobs"]]
            site.root, site.where = Path(request["root"]), wire.typed(request["where"], Where)
            done = [wire.plain(result) for result in _results(jobs, site)]
            answers.send(done=done)
        except InputError as error:
            answers.send(message=str(error), input=True)
        except MissingRuntime as error:
            answers.send(message=str(error), missing=True)
        except MeasurementError as error:
            answers.send(message=str(error))
        except Exception as error:  # whatever a measurement raises costs its cell and not the sweep
            traceback.print_exc()
            answers.send(message=f"{type(error).__name__}: {error}".splitlines()[0])


def _results(jobs: Sequence[Job[Any]], site: Site) -> Sequence[Result]:
    if len(jobs) == 1:
        return [jobs[0].run(site)]
    return type(jobs[0]).run_together(jobs, site)  # type: ignore[attr-defined]  # only stored jobs come together


if __name__ == "__main__":
    main()
