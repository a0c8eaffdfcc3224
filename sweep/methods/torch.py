"""The checkpoint as it is, in BF16 through torch: what other variants that torch runs are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from converters.errors import InputError
from int8.architectures import require_quantizable
from int8.recipe import Recipe
from sweep.jobs.base import Ask
from sweep.jobs.cell import Asked, Cell
from sweep.jobs.given import ImportanceFile, Origin
from sweep.jobs.model import MeasuredModel, engine_of
from sweep.jobs.settings import Settings
from sweep.methods.base import PlannedSize, Variant

FLOAT = "torch:BF16"


@dataclass(frozen=True)
class TorchVariant(Variant):
    """A variant that torch runs. `kv_type` is that of the cache which torch keeps for it."""

    baseline = FLOAT
    kv_type: ClassVar[str] = "bf16"

    def settings(self, settings: Settings) -> Settings:
        """What of a sweep's settings holds for it: llama.cpp's placement does not."""
        return replace(settings, kv_type=self.cache_type, gpu_layers=0, cpu_moe=0, tensor_split=())

    @property
    def cache_type(self) -> str:
        return self.kv_type

    @property
    def size_recipe(self) -> Recipe | None:
        """The int8 recipe that its size follows from; None where it is as large as in BF16."""
        return None

    @classmethod
    def predicted(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, ask: Ask
    ) -> dict[str, PlannedSize]:
        from sweep.jobs.sizes import checkpoint_size

        found = {}
        for variant in variants:
            recipe, own = variant.size_recipe, variant.settings(settings)
            size = checkpoint_size(origin.source.name, origin.name, variant.kind, recipe, own)
            found[variant.name] = PlannedSize(size.file_bytes, size.bits_per_weight, size.memory_bytes)
        return found

    @classmethod
    def conditions(cls, asked: Asked) -> dict[str, Any]:
        text = asked.calibration
        told = {"engine": engine_of(cls.opener), "device": asked.where.device("torch")}
        return {"torch": told | {"calibration": text and text.name}}

    @classmethod
    def require_model(cls, variants: Sequence[Self], path: Path) -> None:
        if path.is_file() and path.suffix == ".gguf":
            name = variants[0].name
            raise InputError(f"{path}: {name} is made of a Hugging Face checkpoint; give its directory or hub id")
        if path.is_dir():
            require_quantizable(path)


@dataclass(frozen=True)
class TorchFloat(TorchVariant):
    """The checkpoint in BF16."""

    kind = "torch"
    opener = "torch"
    usage = FLOAT

    @classmethod
    def parse(cls, text: str) -> Self:
        if text != FLOAT:
            raise InputError(f"{text}: of variants that torch runs without a recipe there is {FLOAT}")
        return cls(text)

    def made(self, asked: Asked, importance: ImportanceFile | None) -> tuple[list[Cell], MeasuredModel]:
        origin = asked.origin
        model = MeasuredModel(
            self.opener,
            origin.source,
            origin.fingerprint,
            engine_of(self.opener),
            self.settings(asked.settings),
            origin.source,
            origin.name,
        )
        return [], model

    @classmethod
    def offered(cls) -> tuple[str, ...]:
        return (FLOAT,)
