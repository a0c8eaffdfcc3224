"""What every method says of its variants, and the cells that a variant of any method comes to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from sweep.jobs import registry
from sweep.jobs.base import Ask, StoredJob
from sweep.jobs.cell import Asked, Cell
from sweep.jobs.given import Baseline, ImportanceFile, Origin
from sweep.jobs.model import MeasuredModel, ModelSize
from sweep.jobs.settings import Settings


@dataclass(frozen=True)
class PlannedSize(ModelSize):
    """Of a variant that is not made yet. `header_exact`: whether all of the file's header is known; `mtp_bytes` are in
    multi-token prediction layers; `further` are figures of the method's own."""

    header_exact: bool = False
    mtp_bytes: int = 0
    further: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.further,
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "memory_bytes": self.memory_bytes,
            "header_exact": self.header_exact,
            "mtp_bytes": self.mtp_bytes,
        }


@dataclass(frozen=True)
class Variant(ABC):
    """One way of storing and running a model. Each method is a subclass.

    `kind` is what records call it, `opener` what opens it to be measured. What is of a `baseline`, a variant's name, is
    compared with that wherever it is measured too, and not with the sweep's reference: distributions of two engines
    differ by more than a good quant does. `usage` is how its names are written, in words.
    """

    name: str

    kind: ClassVar[str]
    opener: ClassVar[str]
    usage: ClassVar[str]
    baseline: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """The variant of this name, prefix included. Raises InputError."""

    @abstractmethod
    def made(self, asked: Asked, importance: ImportanceFile | None) -> tuple[list[Cell], MeasuredModel]:
        """The cells that make it, none where it is there, and how it is measured."""

    @classmethod
    def predicted(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, ask: Ask
    ) -> dict[str, PlannedSize]:
        """What variants take that are not made yet, by name; those that are files already are left out.

        `imatrix`: whether there will be an importance matrix. Raises InputError, MissingRuntime.
        """
        return {}

    @classmethod
    def offered(cls) -> tuple[str, ...]:
        """Names to choose from, of what can be made of a checkpoint."""
        return ()

    @classmethod
    def conditions(cls, asked: Asked) -> dict[str, Any]:
        """What of all its variants a plan tells, by a name of the method's."""
        return {}

    @classmethod
    def require_model(cls, variants: Sequence[Self], path: Path) -> None:
        """Raises InputError for a model that the variants cannot be made of."""
        return

    def require_importance(self) -> None:
        """Raises InputError where it cannot be made without an importance matrix."""
        return

    def fetched(self, say: Callable[[str], None], download: bool) -> Self:
        """With its file found in the cache of the hub or, with `download`, fetched there. Raises InputError."""
        return self

    @property
    def takes_importance(self) -> bool:
        """Whether an importance matrix says anything of it."""
        return False

    @property
    def calibrates(self) -> bool:
        """Whether it can be calibrated with a text."""
        return False

    @property
    def needs_calibration(self) -> bool:
        """Whether it cannot be made without a calibration text."""
        return False

    @property
    def exported(self) -> str | None:
        """The quant that it is exported at, where llama.cpp places its layers."""
        return None

    @property
    def fit_name(self) -> str | None:
        """What `sweep fit` calls it, where it knows it beside the model."""
        return None

    @property
    def file_path(self) -> Path | None:
        """The file that it is, where it is not made."""
        return None

    @property
    def file_bytes(self) -> int:
        """Bytes of the file that it is, all parts together."""
        return 0

    def told_apart(self, text: str) -> str:
        """Another name for it, where its own is taken: `text` is what was asked for."""
        return text


def cells_of(
    variant: Variant, asked: Asked, importance: ImportanceFile | None, baseline: Baseline | None
) -> list[Cell]:
    """All cells of a variant: those that make it, then those that measure it."""
    making, model = variant.made(asked, importance)
    needs = tuple(cell.key for cell in making)
    cells = []
    for measurement in registry.measurements():
        for step in measurement(model, asked, baseline):
            alike = None if step.alike is None else step.alike.key(asked.where)
            key = step.job.key(asked.where)
            cells.append(Cell(key, variant.name, step.name, step.job, needs, step.wants, alike))
    return making + cells


def making_cell(variant: Variant, name: str, job: StoredJob[Any], asked: Asked, needs: tuple[str, ...] = ()) -> Cell:
    return Cell(job.key(asked.where), variant.name, name, job, needs)
