"""The child process that does the native work: jobs come in as JSON lines on stdin, answers go out on stdout.

A job is {"kind", ...parameters}. Answers are {"progress": [done, total, part]} any number of times, then
{"done": result} or {"failed": message}, with "input" where the input is to blame and "missing" where a library or
device is not there; {"dying": message} is native code's last word before it aborts. The process ends when stdin does,
so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from typing import Any, TextIO

from converters.errors import InputError, MissingRuntime

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


def _listen(jobs: queue.Queue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)  # the parent is gone; native code in the main thread must not keep this process alive


def main() -> None:
    # gdb, which ggml would start to print a backtrace, can hang; datasets would start processes of its own
    os.environ.update(GGML_NO_BACKTRACE="1", DISABLE_MULTIPROC="1", TOKENIZERS_PARALLELISM="false")
    # threads that wait spin for milliseconds by default, which slows a second sweep beside this one tenfold; 1000 is
    # what libgomp takes by itself where one process has more threads than cores, and costs a lone sweep nothing
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    answers = Answers()
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    # after stdout is safe
    from converters.llamacpp.bindings import on_abort
    from sweep.execution.jobs import Jobs
    from sweep.measure.options import MeasurementError

    on_abort(lambda message: answers.send(dying=message))
    table = Jobs(answers.progress)
    while True:
        job = json.loads(jobs.get())
        try:
            answers.send(done=table.run(job))
        except InputError as error:
            answers.send(failed=str(error), input=True)
        except MissingRuntime as error:
            answers.send(failed=str(error), missing=True)
        except MeasurementError as error:
            answers.send(failed=str(error))
        except Exception as error:  # whatever a measurement raises costs its cell and not the sweep
            traceback.print_exc()
            answers.send(failed=f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main()
