"""Int8 recipes (package int8), run by torch: with int8 matrix products, or as fake-quant in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from converters.errors import InputError
from converters.source import Source
from int8.architectures import require_vision_config
from int8.recipe import NAMED, NEEDS_IMAGES, VISION, Recipe
from int8.recipe import recipe as int8_recipe
from int8.recipe_sizes import RecipeSizes
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.torch_memory import sizes_of
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.inputs import ImatrixFile
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.model import MeasuredModel
from sweep.measure.text_form import TextForm
from sweep.methods.checkpoint import CalibrationFigures, CheckpointTask, CheckpointVariant


@dataclass(frozen=True)
class Int8(CheckpointVariant):
    """An int8 checkpoint made by a recipe, or by the recipe in a file, and multiplied in int8. With +vision after the
    recipe, the vision tower is quantized too."""

    kind = "int8"
    opener = "int8"
    job = Int8CheckpointJob
    usage = "int8:RECIPE"

    recipe: Recipe

    @classmethod
    def parse(cls, text: str) -> Self:
        recipe = int8_recipe(text.partition(":")[2])
        return cls(f"{cls.kind}:{recipe.name}", recipe)

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        return tuple(f"{cls.kind}:{name}" for name in NAMED)

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        text = inputs.calibration
        if self.recipe.calibrates_tower and (text is None or text.form is not TextForm.IMAGES):
            raise InputError(f"{self.name}: {NEEDS_IMAGES}")
        return super().prepare(inputs, imatrix)

    @classmethod
    def require_model(cls, variants: Sequence[Self], path: Path) -> None:
        super().require_model(variants, path)
        for variant in variants:
            if variant.recipe.vision and path.is_dir():
                require_vision_config(path, variant.name)

    @property
    def cache_type(self) -> str:
        return "int8" if self.recipe.int8_kv_cache else self.kv_type

    @property
    def size_recipe(self) -> Recipe:
        return self.recipe

    @property
    def fit_name(self) -> str | None:
        """`sweep fit` knows the named recipes."""
        named = NAMED.get(self.recipe.name.removesuffix(VISION))
        return self.name if named == replace(self.recipe, name=named.name if named else "", vision=False) else None

    def require_written(self, dequantized: bool) -> None:
        if dequantized:
            raise InputError(f"{self.name}: --dequantized is for variants such as hqq:w4g64; leave one of the two out")

    def report_file(self, dequantized: bool) -> str:
        from int8.checkpoint import RECIPE_FILE  # loads torch, which plans do not need

        return RECIPE_FILE

    def written_sizes(self, source: Source, dequantized: bool) -> RecipeSizes:
        return sizes_of(source, ModelShape.of(source.structure, source.tensors), self.recipe)

    def write(self, task: CheckpointTask, progress: Callable[[int, int], None]) -> CalibrationFigures:
        from int8.checkpoint import save  # loads torch, which plans do not need
        from int8.quantize_model import quantize_model

        model, calibration = quantize_model(
            task.source,
            self.recipe,
            task.text,
            count=task.samples,
            length=task.length,
            device=task.device,
            cache=task.cache,
            progress=progress,
        )
        save(model, self.recipe, calibration, task.source, task.out, origin=task.origin, replace=task.replace)
        return CalibrationFigures(
            calibration.text, calibration.samples, calibration.length, expert_tokens=calibration.tokens_by_layer()
        )


@dataclass(frozen=True)
class FakeQuant(Int8):
    """The same checkpoint as fake-quant: values are rounded to int8, but multiplied in float."""

    kind = "fq"
    opener = "fq"
    usage = "fq:RECIPE"

    @property
    def fit_name(self) -> str | None:
        return None

    def require_written(self, dequantized: bool) -> None:
        raise InputError(f"{self.name}: computes with the checkpoint of int8:{self.recipe.name}; write that one")
