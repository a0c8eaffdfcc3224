"""What an executor is: it takes orders for jobs, runs some of them side by side, and tells what comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sweep.jobs.base import Result, StoredJob
from sweep.jobs.settings import Where


@dataclass(frozen=True)
class Order:
    """Jobs of one kind to be done in one go, most often a single one. `id` is the caller's; jobs of one `group` use one
    model, so they are best done where that is loaded. `log` is what their native messages are filed under."""

    id: str
    jobs: tuple[StoredJob[Any], ...]
    group: str
    log: str


@dataclass(frozen=True)
class Progressed:
    """An order is at `done` of `total`; `part` is what is at work."""

    id: str
    done: int
    total: int
    part: str = ""


@dataclass(frozen=True)
class Finished:
    """An order is through: a result for each job, the seconds that all of them took, and what computed them."""

    id: str
    results: tuple[Result, ...]
    seconds: float
    where: Where


@dataclass(frozen=True)
class Failed:
    """Why an order gave no result. `input`: the user's input is to blame; `missing`: a library or device is not there;
    `died`: its process is gone."""

    id: str
    message: str
    seconds: float = 0.0
    input: bool = False
    missing: bool = False
    died: bool = False


Answer = Progressed | Finished | Failed


class Executor(Protocol):
    """Carries out orders. Nothing of it is called by two threads at once."""

    @property
    def slots(self) -> int:
        """How many orders it works on at a time."""
        ...

    def submit(self, order: Order) -> None:
        """Take an order; it is begun as soon as a slot is free. Answers come by `answer`."""
        ...

    def expect(self, group: str, log: str) -> None:
        """Orders of this group come next: whatever takes long to start may be started."""
        ...

    def answer(self, timeout: float) -> Answer | None:
        """What happened next, None where nothing did within `timeout` seconds."""
        ...

    def cancel(self, id: str) -> None:
        """Give up an order at work or waiting: it is answered with Failed, unless it is through already."""
        ...

    def pause(self) -> None:
        """Begin nothing more; orders at work go on."""
        ...

    def close(self) -> None:
        """End everything that runs, unanswered."""
        ...
