"""A sweep as it is planned and stored: model x variants x measurements = cells, each named by a hash of all that it
depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweep.jobs import registry, wire
from sweep.jobs.cell import Cell
from sweep.jobs.model import MeasuredModel, MeasuringJob
from sweep.jobs.settings import Settings, Where
from sweep.methods.registry import method
from sweep.results.plan_v1 import upgraded

FORMAT = 2


def procedures() -> dict[str, int]:
    """Of every kind of job whose results are kept; see StoredJob."""
    return {name: kind.procedure for name, kind in registry.stored_kinds().items()}


@dataclass(frozen=True)
class TooLarge:
    """Why devices do not hold a variant, in words for people, and what it would take. Bytes."""

    reason: str
    file_bytes: int
    bits_per_weight: float
    memory_bytes: int


@dataclass(frozen=True)
class Plan:
    """A run: its id, what it is about, and its cells in order.

    `reference` is a variant or, where that was a file, its name; `made_of` then the variant that the file was made of,
    where that is known and among them. `skipped` variants are too large for the devices they are meant for. `where` is
    what the cells were planned for.
    """

    run: str
    model: str
    preset: str
    reference: str
    variants: tuple[str, ...]
    settings: Settings
    where: Where
    about: Mapping[str, Any]
    cells: tuple[Cell, ...] = field(repr=False)
    procedures: Mapping[str, int] = field(default_factory=procedures)
    made_of: str | None = None
    skipped: Mapping[str, TooLarge] = field(default_factory=dict)

    @property
    def is_current(self) -> bool:
        """Whether its results are kept as this version keeps them."""
        known = procedures()
        return all(self.procedures.get(cell.kind) == known.get(cell.kind) for cell in self.cells)

    def reference_of(self, variant: str) -> str:
        """What a variant is compared with: the baseline of its method, where that is among the variants."""
        baseline = method(variant).baseline
        return baseline if baseline is not None and baseline in self.variants else self.reference

    def cells_of(self, variant: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.variant == variant]

    def model_of(self, variant: str) -> MeasuredModel | None:
        """How a variant is measured; of one without cells, how others with the same baseline are."""
        models = {cell.variant: cell.job.model for cell in self.cells if isinstance(cell.job, MeasuringJob)}
        alike = (model for name, model in models.items() if method(name).baseline == method(variant).baseline)
        return models.get(variant) or next(alike, None)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = wire.plain(replace(self, cells=()))
        row["cells"] = [_cell_row(cell) for cell in self.cells]
        return row | {"format": FORMAT}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Plan:
        """What `to_json` made, of this version or an earlier one. Raises KeyError, TypeError, ValueError."""
        if row.get("format", 1) < FORMAT:
            row = upgraded(row)
        known = {name: value for name, value in row.items() if name != "cells"}
        return replace(wire.typed(known | {"cells": ()}, cls), cells=tuple(map(_cell_of, row["cells"])))


def _cell_row(cell: Cell) -> dict[str, Any]:
    return {
        "key": cell.key,
        "variant": cell.variant,
        "name": cell.name,
        "job": wire.job_row(cell.job),
        "needs": list(cell.needs),
        "wants": list(cell.wants),
        "alike": cell.alike,
    }


def _cell_of(row: Mapping[str, Any]) -> Cell:
    job: Any = wire.job_of(row["job"])
    needs, wants = tuple(row["needs"]), tuple(row["wants"])
    return Cell(row["key"], row["variant"], row["name"], job, needs, wants, row["alike"])
