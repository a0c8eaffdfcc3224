"""The base class of variants that torch runs, and their baseline: the unquantized checkpoint in BF16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from converters.errors import InputError
from int8.architectures import is_speech, require_quantizable
from int8.recipe import Recipe
from sweep.jobs.base import RunJob
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.images import ImageInputs
from sweep.jobs.inputs import ImatrixFile, Origin
from sweep.jobs.model import MeasuredModel, engine_versions
from sweep.jobs.settings import Settings
from sweep.methods.base import PredictedSize, Variant

TORCH_FLOAT = "torch:BF16"
SPEECH_FLOAT = "torch:F32"
"""The float variant of a speech model."""


@dataclass(frozen=True)
class TorchVariant(Variant):
    """A variant that torch runs. `kv_type` is the type of its KV cache."""

    baseline = TORCH_FLOAT
    kv_type: ClassVar[str] = "bf16"

    def settings(self, settings: Settings) -> Settings:
        """The sweep's settings for a variant that torch runs: without llama.cpp's placement on GPUs."""
        return replace(settings, kv_type=self.cache_type, gpu_layers=0, cpu_moe=0, tensor_split=())

    def image_inputs(self, inputs: SweepInputs) -> ImageInputs | None:
        """What the variant's model needs to take images. The tower is part of the checkpoint."""
        return None if inputs.images is None else ImageInputs(inputs.images.settings)

    @property
    def cache_type(self) -> str:
        return self.kv_type

    @property
    def size_recipe(self) -> Recipe | None:
        """The int8 recipe that determines the variant's size; None if the variant is as large as BF16."""
        return None

    @classmethod
    def predicted_sizes(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
    ) -> dict[str, PredictedSize]:
        from sweep.jobs.sizes import checkpoint_size, speech_size

        sizes = {}
        path = Path(origin.source.name)
        for variant in variants:
            recipe, own = variant.size_recipe, variant.settings(settings)
            if path.is_dir() and is_speech(path):
                found = speech_size(path, recipe)
                sizes[variant.name] = PredictedSize(found.file_bytes, found.bits_per_weight, found.memory_bytes)
                continue
            size = checkpoint_size(origin.source.name, origin.name, variant.kind, recipe, own)
            sizes[variant.name] = PredictedSize(size.file_bytes, size.bits_per_weight, size.memory_bytes)
        return sizes

    @classmethod
    def plan_details(cls, inputs: SweepInputs) -> dict[str, Any]:
        text = inputs.calibration
        engine, device = engine_versions(cls.opener), inputs.resources.device("torch")
        return {"torch": {"engine": engine, "device": device, "calibration": text and text.name}}

    @classmethod
    def require_model(cls, variants: Sequence[Self], path: Path) -> None:
        if path.is_file() and path.suffix == ".gguf":
            name = variants[0].name
            raise InputError(f"{path}: {name} is made from a Hugging Face checkpoint; give its directory or hub id")
        if path.is_dir():
            require_quantizable(path)


@dataclass(frozen=True)
class TorchFloat(TorchVariant):
    """The checkpoint in BF16, or in float32 if it is a speech model."""

    kind = "torch"
    opener = "torch"
    usage = TORCH_FLOAT

    @classmethod
    def parse(cls, text: str) -> Self:
        if text not in (TORCH_FLOAT, SPEECH_FLOAT):
            raise InputError(
                f"{text}: the only variant that torch runs without a recipe is {TORCH_FLOAT} ({SPEECH_FLOAT} of speech"
                " models)"
            )
        return cls(text)

    @classmethod
    def require_model(cls, variants: Sequence[Self], path: Path) -> None:
        super().require_model(variants, path)
        own, other = (TORCH_FLOAT, SPEECH_FLOAT)[:: -1 if path.is_dir() and is_speech(path) else 1]
        if any(variant.name == other for variant in variants):
            raise InputError(f"{other}: the float variant of this model is {own}")

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        origin = inputs.origin
        model = MeasuredModel(
            self.opener,
            origin.source,
            origin.fingerprint,
            engine_versions(self.opener),
            self.settings(inputs.settings),
            origin.source,
            origin.name,
            images=self.image_inputs(inputs),
        )
        return [], model

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        return (TORCH_FLOAT,)
