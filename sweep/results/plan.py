"""The plan of a sweep, as it is made and stored: a table of variants and measurements. Each cell is a job with a key, a
hash of everything that its result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweep.jobs import registry, serialization
from sweep.jobs.cell import Cell
from sweep.jobs.model import MeasuredModel, MeasurementJob
from sweep.jobs.settings import ComputeResources, Settings
from sweep.methods.registry import method
from sweep.results.plan_v1 import upgraded
from sweep.run_question import NO_QUESTION, RunQuestion
from sweep.variant_name import split_cache

FORMAT = 2


def procedures() -> dict[str, int]:
    """The `procedure` of every kind of job whose results are stored; see StoredJob."""
    return {kind: job.procedure for kind, job in registry.stored_kinds().items()}


@dataclass(frozen=True)
class Skipped:
    """A variant that is not measured: the reason for people (it does not fit on the devices, or a smaller one is good
    enough), its size, and the bytes of memory that it would need, as far as they are known."""

    reason: str
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Plan:
    """A run: its id, its settings and its cells in order.

    - `reference`: a variant, or the name of a reference file. `made_of`: the variant that such a file was made from;
      None if it is unknown or not in the plan.
    - `resources`: the threads and devices that the cells were planned for.
    - `about`: what reports say about the run.
    - `procedures`: the versions of the procedures that the results were made with.
    - `skipped`: the variants that are not measured, with the reason.
    - `question`: what the advice was asked when the run was last started. It is no part of the id.
    """

    run: str
    model: str
    preset: str
    reference: str
    variants: tuple[str, ...]
    settings: Settings
    resources: ComputeResources
    about: Mapping[str, Any]
    cells: tuple[Cell, ...] = field(repr=False)
    procedures: Mapping[str, int] = field(default_factory=procedures)
    made_of: str | None = None
    skipped: Mapping[str, Skipped] = field(default_factory=dict)
    question: RunQuestion = NO_QUESTION

    @property
    def is_current(self) -> bool:
        """Whether this version measures in the same way as the version that made the results."""
        known = procedures()
        return all(self.procedures.get(cell.kind) == known.get(cell.kind) for cell in self.cells)

    @property
    def reference_reason(self) -> str | None:
        """Why a sweep over a repository has this reference, to be read after its name; None for other sweeps."""
        return self.about.get("repository", {}).get("reference")

    def reference_of(self, variant: str) -> str:
        """The variant that a variant is compared with: its method's baseline if that is in the plan, or the
        reference."""
        baseline = method(variant).baseline
        return baseline if baseline is not None and baseline in self.variants else self.reference

    def cells_of(self, variant: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.variant == variant]

    def model_of(self, variant: str) -> MeasuredModel | None:
        """The model that measurements of a variant open. For a variant without cells, the model of another variant with
        the same baseline. The reference has settings of its own, so those of the plan are taken, if they apply."""
        models = {cell.variant: cell.job.model for cell in self.cells if isinstance(cell.job, MeasurementJob)}
        baseline = method(variant).baseline
        similar = next((model for name, model in models.items() if method(name).baseline == baseline), None)
        if variant not in models and similar is not None and baseline is None:
            cache = split_cache(variant)[1]
            return replace(similar, settings=self.settings if cache is None else self.settings.with_cache(cache))
        return models.get(variant, similar)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = serialization.to_json(replace(self, cells=()))
        row["where"] = row.pop("resources")  # the name that stored plans have
        row["cells"] = [_cell_row(cell) for cell in self.cells]
        return row | {"format": FORMAT}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Plan:
        """Read what `to_json` of this version or an earlier one returned. Raises KeyError, TypeError, ValueError."""
        if row.get("format", 1) < FORMAT:
            row = upgraded(row)
        known = {name: value for name, value in row.items() if name not in ("cells", "where")}
        plan = serialization.from_json(known | {"resources": row["where"], "cells": ()}, cls)
        for name in ("model", "tasks", "text", "engine"):  # what every report says
            plan.about[name]
        return replace(plan, cells=tuple(map(_cell_of, row["cells"])))


def _cell_row(cell: Cell) -> dict[str, Any]:
    """Stored plans call `optional_needs` "wants" and `equivalent_key` "alike"."""
    return {
        "key": cell.key,
        "variant": cell.variant,
        "name": cell.name,
        "job": serialization.job_to_json(cell.job),
        "needs": list(cell.needs),
        "wants": list(cell.optional_needs),
        "alike": cell.equivalent_key,
    }


def _cell_of(row: Mapping[str, Any]) -> Cell:
    job: Any = serialization.job_from_json(row["job"])
    needs, optional_needs = tuple(row["needs"]), tuple(row["wants"])
    return Cell(row["key"], row["variant"], row["name"], job, needs, optional_needs, row["alike"])
