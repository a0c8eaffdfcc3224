"""The local executor: a worker process a slot, in which one group's model stays loaded from job to job."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from converters.errors import InputError, MissingRuntime
from sweep import devices
from sweep.execution.child import Child
from sweep.execution.logs import log_path
from sweep.execution.protocol import Answer, Failed, Order, Progressed
from sweep.jobs.base import Job, R, TellProgress, Unanswered
from sweep.jobs.model import here
from sweep.jobs.settings import Where


@dataclass
class _Slot:
    """A place for one worker: what its environment says beside this process's, the worker, and the group whose model it
    may have loaded."""

    environment: Mapping[str, str]
    child: Child | None = None
    group: str = ""
    order: Order | None = None


@dataclass
class LocalExecutor:
    """Workers on this machine, one for each of `environments`, which share its threads. `root` is the workspace,
    `directory` that of the run, whose logs it keeps. To be used as a context manager, which ends the workers."""

    root: Path
    directory: Path
    where: Where
    environments: Sequence[Mapping[str, str]] = ({},)
    _waiting: deque[Order] = field(default_factory=deque)
    _answers: queue.Queue[tuple[_Slot, Answer]] = field(default_factory=queue.Queue)
    _ahead: dict[str, Child] = field(default_factory=dict)
    _paused: bool = False

    def __post_init__(self) -> None:
        self._slots = [_Slot(environment) for environment in self.environments]

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
        """A worker is started ahead where it does not matter which slot it will be in: loading its libraries takes
        seconds."""
        alike = all(slot.environment == self._slots[0].environment for slot in self._slots)
        if alike and group not in self._ahead and all(slot.group != group for slot in self._slots):
            self._ahead[group] = self._child(log, self._slots[0])

    def answer(self, timeout: float) -> Answer | None:
        try:
            slot, found = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        if not isinstance(found, Progressed):
            slot.order = None
            self._begin()
        return found

    def cancel(self, id: str) -> None:
        for order in [order for order in self._waiting if order.id == id]:
            self._waiting.remove(order)
            self._answers.put((_Slot({}), Failed(id, "cancelled")))
        for slot in self._slots:
            if slot.order is not None and slot.order.id == id and slot.child is not None:
                slot.child.interrupt()

    def pause(self) -> None:
        self._paused = True

    def close(self) -> None:
        self._waiting.clear()
        for child in [*self._ahead.values(), *(slot.child for slot in self._slots if slot.child is not None)]:
            child.kill()
        self._ahead.clear()

    def _begin(self) -> None:
        """Begin what waits in the slots that are free."""
        while self._waiting and not self._paused and (slot := self._free(self._waiting[0].group)) is not None:
            order = self._waiting.popleft()
            slot.order = order
            child = self._worker(slot, order)
            alone = any(job.alone for job in order.jobs)
            threads = self.where.threads if alone else max(1, self.where.threads // self.slots)
            where = replace(self.where, threads=threads)
            threading.Thread(target=self._follow, args=(slot, child, order, where), daemon=True).start()

    def _free(self, group: str) -> _Slot | None:
        """A free slot, if there is one; that of the group before others, and one without a model before one with."""
        free = [slot for slot in self._slots if slot.order is None]
        return min(free, key=lambda slot: (slot.group != group, slot.child is not None), default=None)

    def _worker(self, slot: _Slot, order: Order) -> Child:
        """The slot's worker where that is alive and of the order's group; else another."""
        if slot.child is not None and slot.group == order.group and slot.child.alive:
            return slot.child
        if slot.child is not None:
            slot.child.kill()
        slot.child = self._ahead.pop(order.group, None) or self._child(order.log, slot)
        slot.group = order.group
        return slot.child

    def _child(self, log: str, slot: _Slot) -> Child:
        return Child(log_path(self.directory, log), self.root, slot.environment)

    def _follow(self, slot: _Slot, child: Child, order: Order, where: Where) -> None:
        for answer in child.run(order.id, order.jobs, where):
            self._answers.put((slot, answer))


@dataclass(frozen=True)
class LocalHost:
    """See `jobs.base.Host`: this machine. Every question is asked in a worker of its own, which writes to `log`."""

    root: Path = Path()
    log: Path | None = None

    def ask(self, job: Job[R], progress: TellProgress | None = None) -> R:
        with TemporaryDirectory() as directory, Child(self.log or Path(directory) / "worker.log", self.root) as child:
            for answer in child.run("", [job], self.where(())):
                if isinstance(answer, Progressed):
                    if progress is not None:
                        progress(answer.done, answer.total, answer.part)
                elif isinstance(answer, Failed):
                    raise _error(answer)
                else:
                    found: R = answer.results[0]  # type: ignore[assignment]  # of the job's own type
                    return found
        raise AssertionError("a job ends with a result or a failure")

    def where(self, engines: Collection[str]) -> Where:
        return here({"llama.cpp", *engines}, devices.threads())


def _error(failed: Failed) -> InputError | MissingRuntime:
    if failed.missing:
        return MissingRuntime(failed.message)
    return InputError(failed.message) if failed.input else Unanswered(failed.message, died=failed.died)


def environments(workers: int) -> list[Mapping[str, str]]:
    """Of so many workers: on a machine with several GPUs each sees one of them, in turn."""
    cards = devices.gpu_environments()
    if len(cards) < 2:
        return [{}] * workers
    return [cards[index % len(cards)] for index in range(workers)]
