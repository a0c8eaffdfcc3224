"""The local executor: one worker process per slot, which keeps the model of one group loaded from job to job."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from converters.errors import InputError, MissingRuntime
from sweep import devices
from sweep.execution.logs import log_path
from sweep.execution.protocol import Answer, Failed, Order, Progressed
from sweep.execution.worker_process import WorkerProcess
from sweep.jobs.base import Job, JobFailed, R, ReportProgress
from sweep.jobs.model import local_resources
from sweep.jobs.settings import ComputeResources


@dataclass
class _WorkerSlot:
    """A slot for one worker: its additional environment variables, the worker, the group whose model the worker may
    have loaded, and the order that it runs."""

    environment: Mapping[str, str]
    worker: WorkerProcess | None = None
    group: str = ""
    order: Order | None = None


@dataclass
class LocalExecutor:
    """Workers on this machine: one for each of `environments`, which are additional environment variables. They
    share the machine's threads. One more worker runs jobs in the background.

    `root` is the workspace's folder, `directory` the run's folder, where the logs are written. Use the executor as a
    context manager, which ends the workers."""

    root: Path
    directory: Path
    resources: ComputeResources
    environments: Sequence[Mapping[str, str]] = ({},)
    _waiting: deque[Order] = field(default_factory=deque)
    _answers: queue.Queue[tuple[_WorkerSlot, Answer]] = field(default_factory=queue.Queue)
    _ahead: dict[str, WorkerProcess] = field(default_factory=dict)
    _paused: bool = False

    def __post_init__(self) -> None:
        self._slots = [_WorkerSlot(environment) for environment in self.environments]
        self._background = _WorkerSlot(self.environments[0])

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        return len(self._slots)

    def submit(self, order: Order) -> None:
        self._waiting.append(order)
        self._begin()

    def expect(self, group: str, log: str) -> None:
        """Start a worker ahead, because loading its libraries takes seconds. This is only done if all slots have the
        same environment, so that the worker fits into any of them."""
        same = all(slot.environment == self._slots[0].environment for slot in self._slots)
        if same and group not in self._ahead and all(slot.group != group for slot in self._slots):
            self._ahead[group] = self._new_worker(log, self._slots[0])

    def answer(self, timeout: float) -> Answer | None:
        try:
            slot, answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        if not isinstance(answer, Progressed):
            slot.order = None
            self._begin()
        return answer

    def cancel(self, id: str) -> None:
        for order in [order for order in self._waiting if order.id == id]:
            self._waiting.remove(order)
            self._answers.put((_WorkerSlot({}), Failed(id, "cancelled")))
        for slot in [*self._slots, self._background]:
            if slot.order is not None and slot.order.id == id and slot.worker is not None:
                slot.worker.interrupt()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._begin()

    def close(self) -> None:
        self._waiting.clear()
        slots = [*self._slots, self._background]
        for worker in [*self._ahead.values(), *(slot.worker for slot in slots if slot.worker is not None)]:
            worker.kill()
        self._ahead.clear()

    def _begin(self) -> None:
        """Start waiting orders in free slots."""
        while self._waiting and not self._paused and (slot := self._free(self._waiting[0])) is not None:
            order = self._waiting.popleft()
            slot.order = order
            worker = self._worker_for(slot, order)
            exclusive = any(job.exclusive for job in order.jobs)
            threads = self.resources.threads if exclusive else max(1, self.resources.threads // self.slots)
            resources = replace(self.resources, threads=threads)
            threading.Thread(target=self._follow, args=(slot, worker, order, resources), daemon=True).start()

    def _free(self, order: Order) -> _WorkerSlot | None:
        """A free slot, None if there is none: preferably one with the group's model, then one without a worker."""
        slots = [self._background] if all(job.in_background for job in order.jobs) else self._slots
        free = [slot for slot in slots if slot.order is None]
        return min(free, key=lambda slot: (slot.group != order.group, slot.worker is not None), default=None)

    def _worker_for(self, slot: _WorkerSlot, order: Order) -> WorkerProcess:
        """The slot's worker if it is alive and has the order's group; otherwise a new one."""
        same = slot.group == order.group or slot is self._background  # which loads no model
        if slot.worker is not None and same and slot.worker.alive:
            return slot.worker
        if slot.worker is not None:
            slot.worker.kill()
        slot.worker = self._ahead.pop(order.group, None) or self._new_worker(order.log, slot)
        slot.group = order.group
        return slot.worker

    def _new_worker(self, log: str, slot: _WorkerSlot) -> WorkerProcess:
        return WorkerProcess(log_path(self.directory, log), self.root, slot.environment)

    def _follow(self, slot: _WorkerSlot, worker: WorkerProcess, order: Order, resources: ComputeResources) -> None:
        for answer in worker.run(order.id, order.jobs, resources, log_path(self.directory, order.log)):
            self._answers.put((slot, answer))


@dataclass
class LocalHost:
    """This machine as a `jobs.base.Host`. Use it as a context manager.

    All jobs run in one worker, which the first job starts, because loading its libraries takes seconds. If a job ends
    the worker, the next job gets a new one. The workers write their messages to `log`.
    """

    root: Path = Path()
    log: Path | None = None
    _worker: WorkerProcess | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker = None
        self._open.close()

    def run_job(self, job: Job[R], progress: ReportProgress | None = None) -> R:
        for answer in self._living_worker().run("", [job], self.resources(())):
            if isinstance(answer, Progressed):
                if progress is not None:
                    progress(answer.done, answer.total, answer.part)
            elif isinstance(answer, Failed):
                raise _error(answer)
            else:
                result: R = answer.results[0]  # type: ignore[assignment]  # the job's result_type
                return result
        raise AssertionError("a job ends with a result or a failure")

    def _living_worker(self) -> WorkerProcess:
        if self._worker is None or not self._worker.alive:
            log = self.log or Path(self._open.enter_context(TemporaryDirectory())) / "worker.log"
            self._worker = self._open.enter_context(WorkerProcess(log, self.root))
        return self._worker

    def resources(self, engines: Collection[str]) -> ComputeResources:
        return local_resources({"llama.cpp", *engines}, devices.threads())


def _error(failed: Failed) -> InputError | MissingRuntime:
    if failed.missing:
        return MissingRuntime(failed.message)
    return InputError(failed.message) if failed.input else JobFailed(failed.message, died=failed.died)


def worker_environments(workers: int) -> list[Mapping[str, str]]:
    """Additional environment variables for each of `workers` workers: on a machine with several GPUs, each worker sees
    one of them, in turn."""
    gpus = devices.gpu_environments()
    if len(gpus) < 2:
        return [{}] * workers
    return [gpus[index % len(gpus)] for index in range(workers)]
