"""The sizes of models, in files and in memory: of existing files, and of files before they are made.

llama.cpp plans the GGUF files; formulas give the sizes of variants that torch runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from converters.architectures.family import tower_name
from converters.catalogue import FileSize, size_of
from converters.checkpoint import StoredTensor, read_config, read_safetensors_header
from converters.gguf_source import GGUFSource, parts
from converters.imatrix import uniform_importance
from converters.llamacpp.ghost import ghost
from converters.llamacpp.memory import plan_memory
from converters.llamacpp.projector import projector_memory
from converters.loadable import require_loadable_source
from converters.plan import FilePlan, plan_export, planned_tensors
from converters.projector_source import ProjectorSource
from converters.recipes import projector_recipes, recipes
from converters.resolver import Need, open_source
from converters.source import Source
from int8.architectures import is_speech
from int8.recipe import Recipe
from int8.speech_sizes import speech_sizes
from sweep.fit.fit_report import FitOptions
from sweep.fit.torch_memory import predicted_sizes
from sweep.jobs.base import CheckPassed, Job, Result, Site
from sweep.jobs.model import MeasuredModel, ModelSize
from sweep.jobs.settings import Settings

# Endings of names of tensors in an int8 checkpoint that are not weights of the model
_NO_WEIGHTS = ("scale", "zero_point", "weight_shape")
# Four int8 weights in an int32: compressed-tensors' format for int8 weights with float inputs
_PACKED = "weight_packed"


@dataclass(frozen=True)
class QuantSize:
    """The size of a GGUF file that does not exist yet, and the memory that llama.cpp plans for it."""

    file: FileSize
    memory_bytes: int


@dataclass(frozen=True)
class SizesResult(Result):
    """Sizes by quant."""

    sizes: Mapping[str, QuantSize] = field(default_factory=dict)


@dataclass(frozen=True)
class SizesJob(Job[SizesResult]):
    """Compute the exact file sizes and the predicted memory of quants of `model`, a path or a name of the catalogue.

    `imatrix`: whether there will be an importance matrix. The types of some tensors depend on it."""

    kind = "sizes"
    result_type = SizesResult

    model: str
    name: str
    quants: tuple[str, ...]
    settings: Settings
    imatrix: bool = False

    def run(self, site: Site) -> SizesResult:
        source = open_source(self.model, self.name, requantize=True, need=Need.PLAN)  # planning asked for consent
        plans: dict[str, FilePlan] = {}
        for recipe in recipes(self.quants):
            importance = uniform_importance(source) if recipe.needs_imatrix or self.imatrix else None
            plans |= plan_export(source, [recipe.name], importance)
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
        context = self.settings.context(site.resources.threads)
        return plan_memory(source.structure, plan.tensors, context, self.settings.load, source.path).total_bytes


@dataclass(frozen=True)
class FileSizesResult(Result):
    """The sizes of existing files, in the order of the models."""

    sizes: tuple[ModelSize, ...] = ()


@dataclass(frozen=True)
class FileSizesJob(Job[FileSizesResult]):
    """Read the sizes of GGUF files, and let llama.cpp predict their memory. A copy of a file's header is enough, if it
    is as long as the file."""

    kind = "file_sizes"
    result_type = FileSizesResult

    models: tuple[MeasuredModel, ...]

    def run(self, site: Site) -> FileSizesResult:
        return FileSizesResult(tuple(gguf_size(model, site) for model in self.models))


@dataclass(frozen=True)
class ExportCheckJob(Job[CheckPassed]):
    """Check that llama.cpp can load `model`, a path or a name of the catalogue, and plan the files of its quants, and
    its projector files of the types `mmproj`.

    This is done in a worker, because an unknown model can make llama.cpp end its process. The other fields are those of
    `open_source`."""

    kind = "export_check"
    result_type = CheckPassed

    model: str
    name: str
    quants: tuple[str, ...]
    imatrix: bool = False
    mtp: bool = True
    pre_tokenizer: str | None = None
    requantize: bool = False
    repair: bool = False
    mmproj: tuple[str, ...] = ()

    def run(self, site: Site) -> CheckPassed:
        options = (self.pre_tokenizer, self.mtp, self.requantize, Need.PLAN, self.repair)
        source = open_source(self.model, self.name, *options)
        if self.quants:
            require_loadable_source(source)
        for recipe in recipes(self.quants):
            planned_tensors(source, recipe, self.imatrix or recipe.needs_imatrix)
        if self.mmproj:
            tower = ProjectorSource(source, needs_normalization=False)
            for recipe in projector_recipes(self.mmproj):
                with ghost(tower.structure, planned_tensors(tower, recipe, False)) as path:
                    projector_memory(path, tower.path)
        return CheckPassed()


def gguf_size(model: MeasuredModel, site: Site) -> ModelSize:
    """The size of a GGUF file and the memory that llama.cpp predicts for it."""
    path, settings = site.path(model.file), model.settings
    whole = GGUFSource(path, requantize=True)
    context = settings.context(site.resources.threads)
    predicted = plan_memory(whole.metadata, whole.tensors, context, settings.load, str(path))
    return ModelSize(
        file_bytes=sum(part.stat().st_size for part in parts(path)),
        bits_per_weight=8 * sum(t.nbytes for t in whole.tensors) / sum(t.elements for t in whole.tensors),
        memory_bytes=predicted.total_bytes,
        parts=asdict(predicted),
    )


def torch_size(model: MeasuredModel, site: Site) -> ModelSize:
    """The size of the float model in BF16, by formula. Its own files may have another dtype, and may contain a vision
    tower that is not loaded."""
    assert model.checkpoint is not None
    if is_speech(site.path(model.checkpoint)):
        return speech_size(site.path(model.file))
    return checkpoint_size(str(site.path(model.checkpoint)), model.name, model.opener, None, model.settings)


def quantized_size(model: MeasuredModel, site: Site) -> ModelSize:
    """The size of an int8 checkpoint's files without the vision tower, and its memory by formula."""
    from int8.checkpoint import read_recipe  # loads torch, which GGUF files do not need

    assert model.checkpoint is not None
    directory, source = site.path(model.file), str(site.path(model.checkpoint))
    if is_speech(site.path(model.checkpoint)):
        return speech_size(directory)
    stored = stored_size(directory)
    expected = checkpoint_size(source, model.name, model.opener, read_recipe(directory), model.settings)
    return ModelSize(stored.file_bytes - _tower_bytes(directory), stored.bits_per_weight, expected.memory_bytes)


def ptq_size(model: MeasuredModel, site: Site) -> ModelSize:
    """The size of the files of a checkpoint that the package ptq quantized, without the vision tower, and the memory of
    its dequantized weights by formula."""
    from ptq.checkpoint import read_summary  # loads torch, which GGUF files do not need

    assert model.checkpoint is not None
    directory = site.path(model.file)
    stored = read_summary(directory)
    expected = checkpoint_size(str(site.path(model.checkpoint)), model.name, "torch", None, model.settings)
    return ModelSize(stored.file_bytes - _tower_bytes(directory), stored.bits_per_weight, expected.memory_bytes)


def checkpoint_size(source: str, name: str, kind: str, recipe: Recipe | None, settings: Settings) -> ModelSize:
    """The size of a variant that torch runs, by formula; `recipe` None: without quantization. The int8 checkpoint need
    not exist."""
    options = FitOptions(context=settings.ctx, ubatch=settings.ubatch, batch=settings.batch)
    found = predicted_sizes(open_source(source, name, need=Need.PLAN), kind, recipe, options)
    return ModelSize(int(found["file_bytes"]), found["bits_per_weight"], int(found["memory_bytes"]))


@dataclass(frozen=True)
class StoredSize:
    """The size of files. `bits_per_weight` counts all bytes of all tensors, scales too, per weight of the model. The
    vision tower, which a GGUF file of the model does not have either, does not count."""

    file_bytes: int
    bits_per_weight: float


def speech_size(directory: Path, recipe: Recipe | None = None) -> ModelSize:
    """The size of a speech model's checkpoint and its memory in float32; with a recipe, of what it will make, by
    formula. Raises InputError."""
    files = sorted(directory.glob("*.safetensors"))
    tensors = {tensor.name: tensor for file in files for tensor in read_safetensors_header(file).values()}
    if recipe is not None or not (directory / "int8.json").is_file():
        sizes = speech_sizes(tensors, read_config(directory), recipe)
        on_disk = sizes.file if recipe is not None else sum(file.stat().st_size for file in files)
        return ModelSize(on_disk, sizes.bits_per_weight, sizes.loaded)
    stored = stored_size(directory)
    held = (
        tensor.nbytes if tensor.dtype in ("I8", "I32") else 4 * math.prod(tensor.shape) for tensor in tensors.values()
    )
    return ModelSize(stored.file_bytes, stored.bits_per_weight, sum(held))


def stored_size(directory: Path) -> StoredSize:
    """The size of all safetensors files in a directory. Raises InputError if one of them is damaged."""
    files = sorted(directory.glob("*.safetensors"))
    tensors = [tensor for file in files for tensor in read_safetensors_header(file).values()]
    tensors = [tensor for tensor in tensors if tower_name(tensor.name) is None]
    weights = sum(_weights(tensor) for tensor in tensors)
    total = sum(file.stat().st_size for file in files)
    return StoredSize(total, 8 * sum(tensor.nbytes for tensor in tensors) / weights)


def _tower_bytes(directory: Path) -> int:
    """The bytes of the vision tower in a checkpoint. Other variants' sizes are those of the text model alone."""
    files = sorted(directory.glob("*.safetensors"))
    tensors = [tensor for file in files for tensor in read_safetensors_header(file).values()]
    return sum(tensor.nbytes for tensor in tensors if tower_name(tensor.name) is not None)


def _weights(tensor: StoredTensor) -> int:
    if tensor.name.endswith(_NO_WEIGHTS):
        return 0
    return math.prod(tensor.shape) * (4 if tensor.name.endswith(_PACKED) else 1)
