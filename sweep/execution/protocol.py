"""The interface of executors: an executor takes orders, runs some of them at the same time, and answers each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sweep.jobs.base import Result, StoredJob
from sweep.jobs.settings import ComputeResources


@dataclass(frozen=True)
class Order:
    """One job, or the jobs of one batch, to be run together.

    `id` identifies the order in answers. Orders of one `group` use the same model, so a worker that has it loaded runs
    them faster. `log` is the name of the order's own log, for messages of native code.
    """

    id: str
    jobs: tuple[StoredJob[Any], ...]
    group: str
    log: str


@dataclass(frozen=True)
class Progressed:
    """The progress of an order: `done` of `total`; `part` names the part that is running."""

    id: str
    done: int
    total: int
    part: str = ""


@dataclass(frozen=True)
class Finished:
    """The end of an order: a result for each job, the seconds that all jobs took together, and the threads and devices
    that computed them."""

    id: str
    results: tuple[Result, ...]
    seconds: float
    resources: ComputeResources


@dataclass(frozen=True)
class Failed:
    """An order that gave no result, with the reason in `message`. `input`: the user's input is to blame; `missing`: a
    library or device is missing; `died`: the worker process ended."""

    id: str
    message: str
    seconds: float = 0.0
    input: bool = False
    missing: bool = False
    died: bool = False


Answer = Progressed | Finished | Failed


class Executor(Protocol):
    """Runs orders. Its methods are never called from two threads at once.

    One order of a job that is `in_background` is submitted in addition to those in the slots.
    """

    @property
    def slots(self) -> int:
        """The number of orders that it runs at the same time."""
        ...

    def submit(self, order: Order) -> None:
        """Accept an order and start it as soon as a slot is free. `answer` returns what happens to it."""
        ...

    def expect(self, group: str, log: str) -> None:
        """Orders of this group will follow soon. The executor may start ahead whatever takes long to start."""
        ...

    def answer(self, timeout: float) -> Answer | None:
        """The next answer; None if there is none within `timeout` seconds."""
        ...

    def cancel(self, id: str) -> None:
        """Cancel an order that runs or waits. It is answered with Failed unless it has ended already."""
        ...

    def pause(self) -> None:
        """Start no further order. Running orders continue."""
        ...

    def resume(self) -> None:
        """Undo `pause`: start orders again."""
        ...

    def close(self) -> None:
        """Stop everything that runs, without answers."""
        ...
