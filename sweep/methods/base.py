"""The base class of variants, which every method implements, and the cells of a variant of any method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from sweep.jobs import registry
from sweep.jobs.base import RunJob, StoredJob
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.inputs import Baseline, ImatrixFile, Origin
from sweep.jobs.model import MeasuredModel, MeasurementJob, ModelSize
from sweep.jobs.settings import Settings


@dataclass(frozen=True)
class PredictedSize(ModelSize):
    """The size of a variant before it is measured.

    `header_exact`: whether the size of the file's header is exact. `mtp_bytes` are the bytes of layers for multi-token
    prediction. `extra` holds further figures of the method, for JSON."""

    header_exact: bool = False
    mtp_bytes: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.extra,
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "memory_bytes": self.memory_bytes,
            "header_exact": self.header_exact,
            "mtp_bytes": self.mtp_bytes,
        }


@dataclass(frozen=True)
class Variant(ABC):
    """One way of storing and running a model. Each method is a subclass.

    - `name`: the variant's name, with its prefix.
    - `kind`: the name of the method in records.
    - `opener`: the name of the opener that opens the model for measurements.
    - `usage`: how the names of the method's variants are written; error messages show it.
    - `takes_cache`: whether the name can say the types of the KV cache.
    - `baseline`: the name of the variant that the method's variants are compared with; None: the reference of the
      sweep. Methods of another engine have one, because two engines differ by more than a good quant does.
    """

    name: str

    kind: ClassVar[str]
    opener: ClassVar[str]
    usage: ClassVar[str]
    takes_cache: ClassVar[bool] = False
    baseline: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """The variant of this name, which includes the prefix. Raises InputError for a wrong name."""

    @abstractmethod
    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        """The cells that make the variant's files (none if they exist), and the model that measurements open.

        `imatrix` is the importance matrix of the sweep; None if there is none."""

    @classmethod
    def predicted_sizes(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
    ) -> dict[str, PredictedSize]:
        """The sizes, by name, of those of `variants` whose size is known before they are measured.

        `imatrix`: whether there will be an importance matrix. Raises InputError, MissingRuntime.
        """
        return {}

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        """Names of variants that can be made from a checkpoint. The Plan screen offers them."""
        return ()

    @classmethod
    def plan_details(cls, inputs: SweepInputs) -> dict[str, Any]:
        """Entries for the plan's `about`: what holds for all variants of the method. Reports show them."""
        return {}

    @classmethod
    def plain_rounding(cls, name: str, variants: Sequence[str]) -> str | None:
        """The one of `variants` that rounds weights to the nearest value with the same bits as the variant `name`;
        None if there is none, or if the method has no such variants."""
        return None

    @classmethod
    def require_model(cls, variants: Sequence[Self], path: Path) -> None:
        """Raises InputError if the variants cannot be made from the model at `path`."""
        return

    def require_imatrix(self) -> None:
        """Raises InputError if the variant cannot be made without an importance matrix."""
        return

    def with_file(self, say: Callable[[str], None], download: bool) -> Self:
        """The variant with its file found in the hub's cache or, if `download`, downloaded. Raises InputError."""
        return self

    @property
    def uses_imatrix(self) -> bool:
        """Whether an importance matrix changes the variant."""
        return False

    @property
    def accepts_calibration(self) -> bool:
        """Whether the variant can be calibrated with a text."""
        return False

    @property
    def needs_calibration(self) -> bool:
        """Whether the variant cannot be made without a calibration text."""
        return False

    @property
    def exported_quant(self) -> str | None:
        """The quant that the model is exported to; None if llama.cpp does not export the variant."""
        return None

    @property
    def names_projector(self) -> bool:
        """Whether the variant's name says which projector file it reads images with."""
        return False

    @property
    def projector_file(self) -> Path | None:
        """The user's projector file in the variant's name; None if it names none."""
        return None

    @property
    def fit_name(self) -> str | None:
        """The variant's name in `sweep fit`; None if `sweep fit` does not know it."""
        return None

    @property
    def file_path(self) -> Path | None:
        """The user's file that the variant is; None if a job makes the variant."""
        return None

    @property
    def file_bytes(self) -> int:
        """Bytes of all parts of the user's file; 0 if a job makes the variant."""
        return 0

    def as_origin(self, inputs: SweepInputs) -> Origin:
        """The origin of quants that are made from the variant's file, which is the model of `inputs`."""
        return inputs.origin

    def distinct_name(self, text: str) -> str:
        """Another name for the variant, if another variant has the same name. `text` is what the user wrote."""
        return text


def cells_for(
    variant: Variant, inputs: SweepInputs, imatrix: ImatrixFile | None, baseline: Baseline | None
) -> list[Cell]:
    """All cells of a variant: those that make it, then those that measure it."""
    preparation, model = variant.prepare(inputs, imatrix)
    tower = None if model.images is None else model.images.projector_key
    for_images = {key for cell in preparation if cell.key == tower for key in (cell.key, *cell.needs)}
    cells = []
    for measurement in registry.measurements(inputs.measure):
        for planned in measurement(model, inputs, baseline):
            equivalent = None if planned.equivalent is None else planned.equivalent.key(inputs.resources)
            key = planned.job.key(inputs.resources)
            takes_images = isinstance(planned.job, MeasurementJob) and planned.job.model.images is not None
            needs = tuple(cell.key for cell in preparation if takes_images or cell.key not in for_images)
            cells.append(Cell(key, variant.name, planned.name, planned.job, needs, planned.optional_needs, equivalent))
    return preparation + cells


def preparation_cell(
    variant: Variant, name: str, job: StoredJob[Any], inputs: SweepInputs, needs: tuple[str, ...] = ()
) -> Cell:
    return Cell(job.key(inputs.resources), variant.name, name, job, needs)
