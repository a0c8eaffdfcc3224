"""Recipes of SmoothQuant W8A8 (package int8): computed in int8, or the same checkpoint fake-quantized in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from int8.recipe import NAMED, Recipe
from int8.recipe import recipe as int8_recipe
from sweep.jobs.cell import Asked, Cell
from sweep.jobs.given import ImportanceFile
from sweep.jobs.model import MeasuredModel, engine_of
from sweep.jobs.quantize import QuantizeJob
from sweep.methods.base import making_cell
from sweep.methods.torch import TorchVariant


@dataclass(frozen=True)
class Int8(TorchVariant):
    """A checkpoint made by a recipe, or by the recipe in a file, and computed in int8."""

    kind = "int8"
    opener = "int8"
    usage = "int8:RECIPE"

    recipe: Recipe

    @classmethod
    def parse(cls, text: str) -> Self:
        found = int8_recipe(text.partition(":")[2])
        return cls(f"{cls.kind}:{found.name}", found)

    def made(self, asked: Asked, importance: ImportanceFile | None) -> tuple[list[Cell], MeasuredModel]:
        """Two variants of one recipe have the same first cell."""
        origin, engine = asked.origin, engine_of(self.opener)
        text = asked.calibration if self.recipe.needs_text else None
        job = QuantizeJob(origin.source, origin.name, self.recipe, asked.folder, origin.fingerprint, engine, text)
        cell = making_cell(self, "quantize", job, asked)
        settings = self.settings(asked.settings)
        model = MeasuredModel(self.opener, job.makes, cell.key, engine, settings, origin.source, origin.name)
        return [cell], model

    @classmethod
    def offered(cls) -> tuple[str, ...]:
        return tuple(f"{cls.kind}:{name}" for name in NAMED)

    @property
    def cache_type(self) -> str:
        return "int8" if self.recipe.int8_kv_cache else self.kv_type

    @property
    def size_recipe(self) -> Recipe:
        return self.recipe

    @property
    def calibrates(self) -> bool:
        return True

    @property
    def needs_calibration(self) -> bool:
        return self.recipe.needs_text

    @property
    def fit_name(self) -> str | None:
        """Of recipes it knows the named ones."""
        return self.name if self.recipe in NAMED.values() else None


@dataclass(frozen=True)
class FakeQuant(Int8):
    """The same checkpoint through int8 and back, computed in float."""

    kind = "fq"
    opener = "fq"
    usage = "fq:RECIPE"

    @property
    def fit_name(self) -> str | None:
        return None
