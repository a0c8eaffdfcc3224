"""Int8 recipes (package int8), run by torch: with int8 matrix products, or as fake-quant in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from int8.recipe import NAMED, Recipe
from int8.recipe import recipe as int8_recipe
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.inputs import ImatrixFile
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.model import MeasuredModel, engine_versions
from sweep.methods.base import preparation_cell
from sweep.methods.torch import TorchVariant


@dataclass(frozen=True)
class Int8(TorchVariant):
    """An int8 checkpoint made by a recipe, or by the recipe in a file, and multiplied in int8."""

    kind = "int8"
    opener = "int8"
    usage = "int8:RECIPE"

    recipe: Recipe

    @classmethod
    def parse(cls, text: str) -> Self:
        recipe = int8_recipe(text.partition(":")[2])
        return cls(f"{cls.kind}:{recipe.name}", recipe)

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        """`int8:` and `fq:` variants of one recipe share the cell that makes the checkpoint."""
        origin, engine = inputs.origin, engine_versions(self.opener)
        text = inputs.calibration if self.recipe.needs_text else None
        job = Int8CheckpointJob(
            origin.source, origin.name, self.recipe, inputs.folder, origin.fingerprint, engine, text
        )
        cell = preparation_cell(self, "quantize", job, inputs)  # the name in labels and stored plans
        settings = self.settings(inputs.settings)
        model = MeasuredModel(self.opener, job.output, cell.key, engine, settings, origin.source, origin.name)
        return [cell], model

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        return tuple(f"{cls.kind}:{name}" for name in NAMED)

    @property
    def cache_type(self) -> str:
        return "int8" if self.recipe.int8_kv_cache else self.kv_type

    @property
    def size_recipe(self) -> Recipe:
        return self.recipe

    @property
    def accepts_calibration(self) -> bool:
        return True

    @property
    def needs_calibration(self) -> bool:
        return self.recipe.needs_text

    @property
    def fit_name(self) -> str | None:
        """`sweep fit` knows the named recipes."""
        return self.name if self.recipe in NAMED.values() else None


@dataclass(frozen=True)
class FakeQuant(Int8):
    """The same checkpoint as fake-quant: values are rounded to int8, but multiplied in float."""

    kind = "fq"
    opener = "fq"
    usage = "fq:RECIPE"

    @property
    def fit_name(self) -> str | None:
        return None
