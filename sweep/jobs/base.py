"""The base classes of jobs and results, and the site: what a job is given by the process that runs it."""

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
from sweep.items import Item, Question
from sweep.jobs.inputs import TextFile
from sweep.jobs.settings import ComputeResources
from sweep.record import Value

if TYPE_CHECKING:
    from sweep.backends.base import Backend

ReportProgress = Callable[[int, int, str], None]
"""Called with (done, total, part): `part` names the part that is running, "" for a job without parts."""

R = TypeVar("R", bound="Result")
T = TypeVar("T")


class Result:
    """The result of a job. Every result is a frozen dataclass that can be written as JSON.

    `notes` are lines for readers of the figures. `incomplete_reason` says why a part of the result is missing, although
    the rest is valid. `items` and `questions` are stored in tables of their own.
    """

    notes: tuple[str, ...] = ()
    incomplete_reason: str | None = None
    items: tuple[Item, ...] = ()
    questions: tuple[Question, ...] = ()

    @property
    def summary(self) -> str:
        """The most important figure, in one short text: the Run screen shows it."""
        return "made"

    @property
    def generated(self) -> bool:
        """Whether the model generated text, so that options for generated answers may have mattered."""
        return False

    @property
    def figures(self) -> dict[str, Value]:
        """Figures by name that tables and reports show in addition to the built-in ones."""
        return {}


@dataclass(frozen=True)
class CheckPassed(Result):
    """The result of a job that only checks something. A check that fails raises an error."""


class Job(ABC, Generic[R]):
    """A piece of work. Every job is a frozen dataclass that can be written as JSON.

    `kind` is the name of the class in JSON, `result_type` the class of its results.
    """

    kind: ClassVar[str]
    result_type: ClassVar[type[Any]]

    @abstractmethod
    def run(self, site: Site) -> R:
        """Do the work. Raises InputError if the user's input is to blame, MissingRuntime if a library or device is
        missing, MeasurementError if the measurement gives no figure."""


@dataclass(frozen=True)
class ItemsFile:
    """The scored items of the stored result with this key, in a file (see sweep.reference_items)."""

    key: str
    file: Artefact


class StoredJob(Job[R]):
    """A job whose result is stored under a key, so that the work is done only once.

    - `procedure`: the version of the procedure. Increase it when the job computes something else; old results are
      then not used any more.
    - `weight`: the job's rough share of the time of a run, relative to other jobs. It moves the progress bar.
    - `exclusive`: no other job runs at the same time, because the job measures speed.
    - `in_background`: the job computes nothing, as a download. It runs beside the others, but not while one of them is
      `exclusive`.
    - `is_preparation`: the job makes files for other jobs. It runs before the measurements, in a worker of its own.
    - `auxiliary`: the job runs only if another job needs it.
    - `output_is_model`: `output` is a model, which `--keep` keeps or removes when the run ends.
    - `output_is_download`: `output` is a copy of a published file. Without `--keep` it is removed as soon as it is
      measured.
    - `whole_without_reference`: a result without the reference is whole, and not repeated with it.
    - `has_cell_per_variant`: for a preparation: every variant that uses the file has a cell for it, because the result
      is part of the variant's figures. Otherwise only the first variant has one. The work is done once in either case.
    """

    procedure: ClassVar[int] = 1
    weight: ClassVar[float] = 1.0
    exclusive: ClassVar[bool] = False
    in_background: ClassVar[bool] = False
    is_preparation: ClassVar[bool] = False
    auxiliary: ClassVar[bool] = False
    output_is_model: ClassVar[bool] = False
    output_is_download: ClassVar[bool] = False
    whole_without_reference: ClassVar[bool] = False
    has_cell_per_variant: ClassVar[bool] = False

    @abstractmethod
    def identity(self, resources: ComputeResources) -> Any:
        """Everything that the result depends on, as JSON values. The key of the stored result is a hash of it."""

    def key(self, resources: ComputeResources) -> str:
        return content_hash(self.identity(resources))

    @property
    def output(self) -> Artefact | None:
        """The file or directory that the job writes for other jobs; None if it writes none."""
        return None

    def output_exists(self, root: Path) -> bool:
        """Whether the job has an output, and all of it is in the workspace's folder `root`."""
        return self.output is not None and self.output.under(root).exists()

    @property
    def reads_items(self) -> ItemsFile | None:
        """The file with the scored items of another job that this one reads. It is written before this job starts."""
        return None

    @property
    def input_texts(self) -> tuple[TextFile, ...]:
        """The texts that the job reads."""
        return ()

    @property
    def timing_group(self) -> str:
        """Jobs of one kind with the same group take about the same time per work unit."""
        return "all"

    @property
    def work_units(self) -> int:
        """The amount of work, in any unit that the job's time is proportional to."""
        return 1

    @property
    def essential(self) -> bool:
        """Whether the whole run is rejected if the job fails because of the user's input."""
        return False

    def user_files_intact(self, result: R, root: Path) -> bool:
        """Whether the files that the job writes for the user are still as `result` describes them."""
        return True

    def without_reference(self) -> Self | None:
        """The job to run if the reference that it compares with has failed; None to run the job unchanged."""
        return None

    @property
    def batch_key(self) -> Hashable | None:
        """Jobs with the same key are run together by `run_batch`; None: the job runs by itself."""
        return None

    @classmethod
    def run_batch(cls, jobs: Sequence[Self], site: Site) -> Sequence[R]:
        """Run the jobs of one batch. Returns their results in the same order."""
        return [job.run(site) for job in jobs]


class JobFailed(InputError):
    """A job gave no result, and it is not known whether the input is to blame. `died`: its process ended.

    It is an InputError for callers that cannot continue without the result, because native code that reads an unknown
    model most often fails because of the model.
    """

    def __init__(self, message: str, *, died: bool = False) -> None:
        super().__init__(message)
        self.died = died


class RunJob(Protocol):
    """Runs a job and waits for its result. Raises InputError or MissingRuntime if there is none."""

    def __call__(self, job: Job[R], progress: ReportProgress | None = None) -> R: ...


class Host(Protocol):
    """The machine that will run a plan, as planning sees it."""

    @property
    def run_job(self) -> RunJob: ...

    def resources(self, engines: Collection[str]) -> ComputeResources:
        """The threads, and the device of each of these engines, on that machine."""
        ...


class Openable(Protocol):
    """A model that can be opened. Equal models are opened once."""

    def open(self, site: Site) -> Backend: ...


@dataclass
class Site:
    """What a job is given by the process that runs it.

    `root` is the workspace's folder, `resources` are the threads and devices to compute with, and `progress` is called
    with the progress of the job. The site keeps the loaded model, and other values that are expensive to compute, for
    later jobs.
    """

    root: Path
    resources: ComputeResources = field(default_factory=ComputeResources)
    progress: ReportProgress = lambda _done, _total, _part: None
    _cache: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def path(self, artefact: Artefact) -> Path:
        return artefact.under(self.root)

    def report_progress(self, done: int, total: int) -> None:
        """Report the progress of a job that has no parts."""
        self.progress(done, total, "")

    def open(self, model: Openable) -> Backend:
        """Load the model. It stays open for later jobs until another model is opened."""
        known, backend = self._cache.get("model", (None, None))
        if known != model:
            if backend is not None:
                backend.close()
                del self._cache["model"]
            backend = model.open(self)
            self._cache["model"] = model, backend
        return cast("Backend", backend)

    def cached(self, name: str, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `make()`, computed once as long as `key` stays the same. One value is kept for each `name`."""
        known, value = self._cache.get(name, (None, None))
        if known != key:
            value = make()
            self._cache[name] = key, value
        return cast("T", value)


def content_hash(value: Any) -> str:
    """SHA-256 of a value that JSON can hold, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
