"""What every job and every result is, and the site where a job runs."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.items import Item
from sweep.jobs.given import TextFile
from sweep.jobs.settings import Where
from sweep.record import Value

if TYPE_CHECKING:
    from sweep.backends.base import Backend

TellProgress = Callable[[int, int, str], None]
"""(done, total, what is at work)"""

R = TypeVar("R", bound="Result")
T = TypeVar("T")


class Result:
    """What a job found. Every result is a frozen dataclass that JSON can hold.

    `notes` are for readers of the figures, `lacking` says why a part is missing though the rest counts, `items` are
    stored beside the result.
    """

    notes: tuple[str, ...] = ()
    lacking: str | None = None
    items: tuple[Item, ...] = ()

    @property
    def summary(self) -> str:
        """The one figure that says most."""
        return "made"

    @property
    def generated(self) -> bool:
        """Whether a bound on what is generated may have mattered."""
        return False

    @property
    def figures(self) -> dict[str, Value]:
        """What every table shows of it beside the built-in figures, by name."""
        return {}


@dataclass(frozen=True)
class Nothing(Result):
    """Of a job that only finds out whether something can be done."""


class Job(ABC, Generic[R]):
    """A piece of work. Every job is a frozen dataclass that JSON can hold; `found` is the type of what it finds."""

    kind: ClassVar[str]
    found: ClassVar[type[Any]]

    @abstractmethod
    def run(self, site: Site) -> R:
        """Do it. Raises InputError where the input is to blame, MissingRuntime where a library or device is missing,
        MeasurementError where there is no figure."""


class StoredJob(Job[R]):
    """A job whose result is kept under a key, so that it is done once.

    `procedure` is raised when what is done changes, so that old results are not taken for new ones. `weight` is a rough
    share of a run's time. An `alone` job runs with nothing beside it. A `making` job goes before those that measure.
    A job that only serves others (`auxiliary`) is done where one of them needs it. What `makes_model` leaves a model
    that may stay when the run is through.
    """

    procedure: ClassVar[int] = 1
    weight: ClassVar[float] = 1.0
    alone: ClassVar[bool] = False
    making: ClassVar[bool] = False
    auxiliary: ClassVar[bool] = False
    makes_model: ClassVar[bool] = False

    @abstractmethod
    def identity(self, where: Where) -> Any:
        """All that its result depends on, as JSON can hold it; the key is the hash of it."""

    def key(self, where: Where) -> str:
        return content_hash(self.identity(where))

    @property
    def makes(self) -> Artefact | None:
        """The file or directory that it leaves."""
        return None

    @property
    def reads(self) -> tuple[TextFile, ...]:
        """The texts that it reads."""
        return ()

    @property
    def like(self) -> str:
        """Jobs of one kind that have this in common take alike long for each unit."""
        return "all"

    @property
    def units(self) -> int:
        """How much there is to do, in units of whatever its time is proportional to."""
        return 1

    @property
    def essential(self) -> bool:
        """Whether there is nothing to measure where its input is to blame, so that the run is refused."""
        return False

    def left(self, result: R, root: Path) -> bool:
        """Whether what it is to leave with the user is there, as `result` says that it was left."""
        return True

    def without_reference(self) -> Self | None:
        """The same where the cell that it compares with has failed; None where it is of no use then."""
        return None

    @property
    def batch(self) -> Hashable | None:
        """Jobs of the same batch are done in one go by `run_together`; None where each is done by itself."""
        return None

    @classmethod
    def run_together(cls, jobs: Sequence[Self], site: Site) -> Sequence[R]:
        """Of the jobs of a batch, in their order."""
        return [job.run(site) for job in jobs]


class Unanswered(InputError):
    """A job gave no result, and nobody knows that the input is to blame. `died`: its process is gone.

    It is an InputError all the same, for whoever cannot do without the result: native code reads a stranger's data.
    """

    def __init__(self, message: str, *, died: bool = False) -> None:
        super().__init__(message)
        self.died = died


class Ask(Protocol):
    """Has a job done somewhere, and waits for it. Raises InputError or MissingRuntime where it gives no result."""

    def __call__(self, job: Job[R], progress: TellProgress | None = None) -> R: ...


class Host(Protocol):
    """Where a plan will be carried out, as planning sees it."""

    @property
    def ask(self) -> Ask: ...

    def where(self, engines: Collection[str]) -> Where:
        """What computes there, for these engines."""
        ...


class Openable(Protocol):
    """A model that can be opened. Equal ones are opened once."""

    def open(self, site: Site) -> Backend: ...


@dataclass
class Site:
    """Where a job runs: the workspace's folder, what computes, whom to tell how far it is, what is loaded already."""

    root: Path
    where: Where = field(default_factory=Where)
    progress: TellProgress = lambda _done, _total, _part: None
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def path(self, artefact: Artefact) -> Path:
        return artefact.under(self.root)

    def tell(self, done: int, total: int) -> None:
        """Progress of a job that has no parts."""
        self.progress(done, total, "")

    def open(self, model: Openable) -> Backend:
        """The model, loaded; it stays open for the next job, and is closed when another is opened."""
        known, backend = self._kept.get("model", (None, None))
        if known != model:
            if backend is not None:
                backend.close()
                del self._kept["model"]
            backend = model.open(self)
            self._kept["model"] = model, backend
        return cast("Backend", backend)

    def keep(self, name: str, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives; it is kept for later jobs that ask for the same, one thing a name."""
        known, value = self._kept.get(name, (None, None))
        if known != key:
            value = make()
            self._kept[name] = key, value
        return cast("T", value)


def content_hash(value: Any) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
