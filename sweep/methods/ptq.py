"""Post-training quantization in torch (package ptq): RTN, GPTQ, AWQ, SmoothQuant, HQQ, BiLLM, rotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from converters.errors import InputError
from converters.resolver import Need, open_source
from converters.source import Source
from int8.architectures import require_vision_config
from int8.recipe import NEEDS_IMAGES
from int8.recipe_sizes import RecipeSizes
from ptq.output_form import require_written
from ptq.recipe import PtqRecipe
from ptq.recipe import recipe as ptq_recipe
from sweep.fit.layer_bytes import ModelShape
from sweep.fit.ptq_memory import sizes_of
from sweep.fit.torch_memory import sizes_of as torch_sizes_of
from sweep.jobs.base import RunJob
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.inputs import ImatrixFile, Origin
from sweep.jobs.model import MeasuredModel
from sweep.jobs.ptq_checkpoint import PtqCheckpointJob
from sweep.jobs.settings import Settings
from sweep.measure.text_form import TextForm
from sweep.methods.base import PredictedSize
from sweep.methods.checkpoint import CalibrationFigures, CheckpointTask, CheckpointVariant


@dataclass(frozen=True)
class Ptq(CheckpointVariant):
    """A checkpoint quantized by a recipe of ptq.recipe. It is measured with dequantized weights."""

    kind = "ptq"
    opener = "ptq"
    job = PtqCheckpointJob
    usage = "METHOD:wBITS[aBITS][gGROUP] (gptq:w4g128)"

    recipe: PtqRecipe

    @classmethod
    def parse(cls, text: str) -> Self:
        recipe = ptq_recipe(text)
        return cls(recipe.name, recipe)

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        text = inputs.calibration
        if self.recipe.vision and self.recipe.needs_text and (text is None or text.form is not TextForm.IMAGES):
            raise InputError(f"{self.name}: {NEEDS_IMAGES}")
        return super().prepare(inputs, imatrix)

    @classmethod
    def require_model(cls, variants: Sequence[Self], path: Path) -> None:
        super().require_model(variants, path)
        for variant in variants:
            if variant.recipe.vision and path.is_dir():
                require_vision_config(path, variant.name)

    @classmethod
    def predicted_sizes(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
    ) -> dict[str, PredictedSize]:
        from sweep.jobs.sizes import checkpoint_size

        source = open_source(origin.source.name, origin.name, need=Need.PLAN)
        sizes = {}
        for variant in variants:
            size = sizes_of(source, variant.recipe)
            dequantized = checkpoint_size(origin.source.name, origin.name, "torch", None, variant.settings(settings))
            sizes[variant.name] = PredictedSize(size.file, 8 * size.file / size.weights, dequantized.memory_bytes)
        return sizes

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        return ("rtn:w4g128", "gptq:w4g128", "awq:w4g128", "gptq:w3g128", "sq:w8a8")

    @classmethod
    def plain_rounding(cls, name: str, variants: Sequence[str]) -> str | None:
        own = _stated(name)
        alike = [
            other
            for other in variants
            if other.startswith("rtn:")
            and (found := _stated(other)).activation_bits == own.activation_bits
            and (found.bits, found.group, found.vision) == (own.bits, own.group, own.vision)
        ]
        # of a symmetric and an asymmetric grid, the variant's own; a recipe file may change what a name states
        alike.sort(key=lambda other: ("@" in other, _stated(other).symmetric != own.symmetric))
        return alike[0] if alike else None

    @property
    def fit_name(self) -> str | None:
        """`sweep fit` knows what a name states; the other settings of a recipe file change no size."""
        return self.name.partition("@")[0]

    def require_written(self, dequantized: bool) -> None:
        require_written(self.recipe, dequantized)

    def report_file(self, dequantized: bool) -> str:
        from ptq.layer_files import DEQUANTIZED_REPORT_FILE, REPORT_FILE  # loads torch, which plans do not need

        return DEQUANTIZED_REPORT_FILE if dequantized else REPORT_FILE

    def written_sizes(self, source: Source, dequantized: bool) -> RecipeSizes:
        packed = sizes_of(source, self.recipe)
        if not dequantized:
            return packed
        return torch_sizes_of(source, ModelShape.of(source.structure, source.tensors), None)

    def write(self, task: CheckpointTask, progress: Callable[[int, int], None]) -> CalibrationFigures:
        from ptq.checkpoint import damping_note, read_expert_tokens, read_report  # loads torch, which plans do not need
        from ptq.quantize import quantize

        quantize(
            task.source,
            self.recipe,
            task.text,
            task.out,
            count=task.samples,
            length=task.length,
            device=task.device,
            dtype="bfloat16",  # as in a sweep, so that the values are those that it measured
            dequantized=task.dequantized,
            origin=task.origin,
            replace=task.replace,
            progress=progress,
        )
        report = read_report(task.out, task.dequantized)
        tokens = read_expert_tokens(report)
        return CalibrationFigures(**report["calibration"], note=damping_note(report), expert_tokens=tokens)


def _stated(name: str) -> PtqRecipe:
    """What a variant's name states. The other settings of a recipe file are not part of it."""
    return ptq_recipe(name.partition("@")[0])
