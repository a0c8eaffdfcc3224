"""The memory of the vision tower, in addition to the text model: its weights and its compute buffer.

llama.cpp itself computes the buffer, without allocating it, for the image that it reserves memory for when it loads a
projector file: 92 x 92 patches. For a larger image the buffer is scaled (see `_scaled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converters.architectures.qwen2_5_vl_tower import PROJECTOR as WINDOWED
from converters.architectures.tower import MERGE, projector_type
from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.llamacpp.container import GGUFHeader
from converters.llamacpp.ghost import ghost
from converters.llamacpp.projector import RESERVED_PATCHES, projector_memory
from converters.llamacpp.reader import read_header
from converters.plan import plan_export
from converters.projector_file import DEFAULT_TYPE, of_type, projectors_beside, read_projector
from converters.projector_source import ProjectorSource
from converters.recipes import PROJECTOR_QUANTS, projector_recipes
from converters.source import Source
from sweep.fit.fit_report import ESTIMATE, LOAD, FitFigure, FitOptions
from sweep.fit.image_tokens import ImageTokens, ProjectorFit

NOT_COUNTED = FitFigure(0, "formula", "not counted; --projector counts it")


@dataclass(frozen=True)
class _Tower:
    """What the figures depend on: the type or the path of the file, its bytes, and its header."""

    name: str
    exists: bool
    file_bytes: int
    header: GGUFHeader
    buffer: int  # bytes of the compute buffer for RESERVED_PATCHES

    def value(self, key: str) -> int:
        return int(self.header.metadata[f"clip.vision.{key}"].value)


def projector_fit(source: Source, name: str, options: FitOptions) -> ProjectorFit:
    """The vision tower of the model `source`, which messages call `name`.

    It is the file that `options.mmproj` names, or the file that would be made of a checkpoint (F16 if `mmproj` does not
    name a type), or the one of that type beside a GGUF file. Raises InputError if there is none, or if it belongs to
    another model.
    """
    chosen = options.mmproj
    if chosen.upper() not in PROJECTOR_QUANTS and chosen.endswith(".gguf"):
        tower = _existing(Path(chosen).expanduser(), source, name, options)
    elif isinstance(source, HuggingFaceSource):
        tower = _planned(source, chosen or DEFAULT_TYPE, options)
    else:
        tower = _beside(source, name, options)
    pixels, most = tower.value("patch_size") * MERGE, RESERVED_PATCHES
    images = []
    for image in options.images:
        grid = image.grid(pixels)
        most = max(most, grid.tokens * MERGE**2)
        images.append(ImageTokens(image.width, image.height, image.count, grid.tokens))
    compute = _scaled(tower, most, options.flash_attention is not False)
    return ProjectorFit(tower.name, tower.exists, tower.file_bytes, tower.header.tensor_bytes, compute, tuple(images))


def _planned(source: Source, quant: str, options: FitOptions) -> _Tower:
    (recipe,) = projector_recipes([quant])
    tower = ProjectorSource(source, needs_normalization=False)
    plan = plan_export(tower, [recipe.name])[recipe.name]
    with ghost(tower.structure, plan.tensors) as path:
        buffer = projector_memory(path, tower.path, options.flash_attention)
        header = read_header(path)
    return _Tower(recipe.name, False, plan.file_bytes, header, buffer)


def _existing(path: Path, source: Source, name: str, options: FitOptions) -> _Tower:
    header = read_projector(path, source.structure, name)
    return _Tower(str(path), True, header.file_bytes, header, projector_memory(path, path, options.flash_attention))


def _beside(source: Source, name: str, options: FitOptions) -> _Tower:
    found, quant = projectors_beside(source.path), options.mmproj.upper()
    if quant and of_type(found, quant) is None:
        raise InputError(
            f"{name}: is a GGUF file, of which no {options.mmproj} projector file can be made, and none is next to it;"
            " give a .gguf file"
        )
    if not found:
        raise InputError(
            f"{source.path}: is a text model, and there is no projector file (mmproj*.gguf) next to it; name one by"
            " --mmproj FILE"
        )
    fitting, reasons = [], []
    for path in found:
        try:
            fitting.append(_existing(path, source, name, options))
        except InputError as error:
            reasons.append(error)
    if not fitting:
        raise reasons[0]
    usual = of_type([Path(tower.name) for tower in fitting], quant or DEFAULT_TYPE)
    if len(fitting) > 1 and usual is None:
        names = ", ".join(Path(tower.name).name for tower in fitting)
        raise InputError(
            f"{source.path.parent}: has several projector files of this model: {names}; choose one by --mmproj FILE"
        )
    return next((tower for tower in fitting if tower.name == str(usual)), fitting[0])


def _scaled(tower: _Tower, patches: int, flash_attention: bool) -> int:
    """Bytes of the compute buffer for an image of so many patches.

    Everything in it is proportional to the number of patches, except matrices with a row and a column for each patch:
    the attention of all heads without flash attention, and the mask of windows in Qwen2.5-VL's tower.
    """
    squares = 0 if flash_attention else 4 * tower.value("attention.head_count")
    if projector_type(tower.header) == WINDOWED:
        squares += 6 if flash_attention else 4  # float32, and a copy in float16 for flash attention
    linear = max(0, tower.buffer - squares * RESERVED_PATCHES**2)
    return linear * patches // RESERVED_PATCHES + squares * patches**2


def projector_figure(projector: ProjectorFit, options: FitOptions) -> FitFigure:
    """The tower as one part of a variant's memory."""
    larger = any(4 * image.tokens > RESERVED_PATCHES for image in projector.images)
    largest = " for the largest image" if larger else ""
    return FitFigure(
        projector.weights_bytes + projector.compute_bytes,
        f"{LOAD} + {ESTIMATE}" if larger else LOAD,
        f"{projector.weights_bytes} B of weights ({Path(projector.name).name}) + {projector.compute_bytes} B of a"
        f" compute buffer{largest or ' that llama.cpp reserves'}",
    )


def torch_figure(source: Source) -> FitFigure:
    """The tower as torch runs it. Raises InputError if the model has none."""
    weights = sum(tensor.elements for tensor in ProjectorSource(source, needs_normalization=False).tensors)
    return FitFigure(
        2 * weights, "formula", f"2 B x {weights} weights of the vision tower; activations are not counted"
    )
