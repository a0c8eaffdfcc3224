"""What models take: files that are there, and files that do not exist yet, by llama.cpp's own plan or by formula."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from converters.catalogue import FileSize, size_of
from converters.checkpoint import StoredTensor, read_safetensors_header
from converters.gguf_source import GGUFSource, parts
from converters.imatrix import even_importance
from converters.llamacpp.memory import plan_memory
from converters.plan import FilePlan, plan_export, planned_types
from converters.recipes import recipes
from converters.resolver import open_planned
from converters.source import Source
from int8.recipe import Recipe
from sweep.fit.fit_report import FitOptions
from sweep.fit.torch_memory import foreseen
from sweep.jobs.base import Job, Nothing, Result, Site
from sweep.jobs.model import MeasuredModel, ModelSize
from sweep.jobs.settings import Settings

_NO_WEIGHTS = ("scale", "zero_point", "weight_shape")  # how names of an int8 checkpoint end that are no model's weights
_PACKED = "weight_packed"  # four int8 weights to an int32, as compressed-tensors writes int8 weights under float inputs


@dataclass(frozen=True)
class QuantSize:
    """A GGUF file that does not exist yet, and the memory that llama.cpp plans for it."""

    file: FileSize
    memory_bytes: int


@dataclass(frozen=True)
class SizesResult(Result):
    """By quant."""

    sizes: Mapping[str, QuantSize] = field(default_factory=dict)


@dataclass(frozen=True)
class SizesJob(Job[SizesResult]):
    """Exact file sizes and predicted memory of quants of `model`, a path or a name of the catalogue. `imatrix`: whether
    there will be an importance matrix; some types depend on it."""

    kind = "sizes"
    found = SizesResult

    model: str
    name: str
    quants: tuple[str, ...]
    settings: Settings
    imatrix: bool = False

    def run(self, site: Site) -> SizesResult:
        source = open_planned(self.model, self.name)
        plans: dict[str, FilePlan] = {}
        for recipe in recipes(self.quants):
            given = even_importance(source) if recipe.needs_imatrix or self.imatrix else None
            plans |= plan_export(source, [recipe.name], given)
        return SizesResult(
            {
                quant: QuantSize(
                    size_of(source, plan, header_exact=not (self.imatrix or plan.recipe.needs_imatrix)),
                    self._memory(source, plan, site),
                )
                for quant, plan in plans.items()
            }
        )

    def _memory(self, source: Source, plan: FilePlan, site: Site) -> int:
        context = self.settings.context(site.where.threads)
        return plan_memory(source.structure, plan.tensors, context, self.settings.load, source.path).total_bytes


@dataclass(frozen=True)
class VetJob(Job[Nothing]):
    """Let llama.cpp plan files of quants of `model`, a path or a name of the catalogue: a stranger's model can make it
    end the process. The last three fields are those of `open_source`."""

    kind = "vet"
    found = Nothing

    model: str
    name: str
    quants: tuple[str, ...]
    imatrix: bool = False
    mtp: bool = True
    pre_tokenizer: str | None = None
    requantize: bool = False

    def run(self, site: Site) -> Nothing:
        source = open_planned(self.model, self.name, self.pre_tokenizer, self.mtp, self.requantize)
        for recipe in recipes(self.quants):
            planned_types(source, recipe, self.imatrix or recipe.needs_imatrix)
        return Nothing()


def gguf_size(model: MeasuredModel, site: Site) -> ModelSize:
    """What a file takes, and what memory llama.cpp predicts for it."""
    path, settings = site.path(model.file), model.settings
    whole = GGUFSource(path, requantize=True)
    context = settings.context(site.where.threads)
    predicted = plan_memory(whole.metadata, whole.tensors, context, settings.load, str(path))
    return ModelSize(
        file_bytes=sum(part.stat().st_size for part in parts(path)),
        bits_per_weight=8 * sum(t.nbytes for t in whole.tensors) / sum(t.elements for t in whole.tensors),
        memory_bytes=predicted.total_bytes,
        parts=asdict(predicted),
    )


def torch_size(model: MeasuredModel, site: Site) -> ModelSize:
    """By formula, what the float model takes in BF16, as it is run: its own files may be in another dtype, and hold a
    vision tower that is not loaded."""
    assert model.checkpoint is not None
    return checkpoint_size(str(site.path(model.checkpoint)), model.name, model.opener, None, model.settings)


def quantized_size(model: MeasuredModel, site: Site) -> ModelSize:
    """What a quantized checkpoint takes, and what memory it should take by formula."""
    from int8.checkpoint import read_recipe  # loads torch, which GGUF files do not need

    assert model.checkpoint is not None
    directory, source = site.path(model.file), str(site.path(model.checkpoint))
    stored = stored_size(directory)
    expected = checkpoint_size(source, model.name, model.opener, read_recipe(directory), model.settings)
    return ModelSize(stored.file_bytes, stored.bits_per_weight, expected.memory_bytes)


def checkpoint_size(source: str, name: str, kind: str, recipe: Recipe | None, settings: Settings) -> ModelSize:
    """By formula, what a variant of torch takes under a recipe, or as it is; its checkpoint need not be there."""
    options = FitOptions(context=settings.ctx, ubatch=settings.ubatch, batch=settings.batch)
    found = foreseen(open_planned(source, name), kind, recipe, options)
    return ModelSize(int(found["file_bytes"]), found["bits_per_weight"], int(found["memory_bytes"]))


@dataclass(frozen=True)
class StoredSize:
    """`bits_per_weight` counts every byte of every tensor, scales too, over the model's weights."""

    file_bytes: int
    bits_per_weight: float


def stored_size(directory: Path) -> StoredSize:
    """Of all safetensors files there. Raises InputError where one is damaged."""
    files = sorted(directory.glob("*.safetensors"))
    tensors = [tensor for file in files for tensor in read_safetensors_header(file).values()]
    weights = sum(_weights(tensor) for tensor in tensors)
    total = sum(file.stat().st_size for file in files)
    return StoredSize(total, 8 * sum(tensor.nbytes for tensor in tensors) / weights)


def _weights(tensor: StoredTensor) -> int:
    if tensor.name.endswith(_NO_WEIGHTS):
        return 0
    return math.prod(tensor.shape) * (4 if tensor.name.endswith(_PACKED) else 1)
