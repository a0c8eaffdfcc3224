"""An example of an executor that is not part of the program: a thread pool that starts a process for each order."""

from __future__ import annotations

import json
import queue
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from sweep.execution import registry
from sweep.execution.protocol import Answer, Failed, Finished, Order, Progressed
from sweep.jobs import serialization
from sweep.jobs.settings import ComputeResources
from sweep.own_code import SAFE_PYTHON


@dataclass
class PoolExecutor:
    """Runs up to `workers` processes at the same time."""

    root: Path
    resources: ComputeResources
    workers: int
    _answers: queue.Queue[Answer] = field(default_factory=queue.Queue)
    _processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _cancelled: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.workers)

    def __enter__(self) -> PoolExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        return self.workers

    def submit(self, order: Order) -> None:
        self._pool.submit(self._run, order)

    def expect(self, group: str, log: str) -> None:
        """Nothing to do: no process is started ahead."""

    def answer(self, timeout: float) -> Answer | None:
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return None

    def cancel(self, id: str) -> None:
        """Also before the order has a process."""
        with self._lock:
            self._cancelled.add(id)
            process = self._processes.get(id)
        if process is not None:
            process.kill()

    def pause(self) -> None:
        """Nothing to do: running orders continue, and no order waits, because the scheduler fills only free slots."""

    def resume(self) -> None:
        """Nothing to do, as for `pause`."""

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
        self._pool.shutdown()

    def _run(self, order: Order) -> None:
        """Answer the order, whatever happens: an exception in a thread of the pool would be lost."""
        try:
            answer = self._work(order)
        except Exception as error:
            answer = Failed(order.id, f"{type(error).__name__}: {error}")
        self._answers.put(answer)

    def _work(self, order: Order) -> Answer:
        began = time.monotonic()
        command = [*SAFE_PYTHON, "-m", "sweep.execution.worker"]
        jobs = [serialization.job_to_json(job) for job in order.jobs]
        request = {"jobs": jobs, "resources": serialization.to_json(self.resources), "root": str(self.root)}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
            with self._lock:
                self._processes[order.id] = process
                if order.id in self._cancelled:
                    process.kill()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer: Answer = Failed(order.id, "the process ended", died=True)
            for row in map(json.loads, process.stdout):
                if "progress" in row:
                    self._answers.put(Progressed(order.id, *row["progress"]))
                elif "done" in row:
                    pairs = zip(row["done"], order.jobs, strict=True)
                    results = tuple(serialization.from_json(result, type(job).result_type) for result, job in pairs)
                    answer = Finished(order.id, results, time.monotonic() - began, self.resources)
                    break
                elif "message" in row:
                    answer = serialization.from_json({**row, "id": order.id}, Failed)
                    break
            process.kill()
        return answer


def open_pool(root: Path, directory: Path, resources: ComputeResources, workers: int) -> PoolExecutor:
    return PoolExecutor(root, resources, workers)


registry.register("pool", open_pool)
