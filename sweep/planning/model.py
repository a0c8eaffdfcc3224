"""The model of a run, found by `converters.resolver`, with the facts that a plan needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import presets
from converters.architectures import ARCHITECTURES, is_known
from converters.architectures.tower import NAME
from converters.gguf_repository import GGUFRepository
from converters.gguf_source import GGUFSource
from converters.huggingface_source import HuggingFaceSource
from converters.resolver import Need, find_model
from converters.source import Source


@dataclass(frozen=True)
class ResolvedModel:
    """A model on this disk.

    `fingerprint` is a hash of its content, `context` the longest context that it was trained for, in tokens, `layers`
    the number of its blocks, `weights` that of its weights. `builtin` is None unless the model comes with the program.
    `only_sizes` says why nothing can be made from the model, and what to do; None if its weights are known.
    `reads_images`: whether it is a vision model. `is_quantized`: whether it is a GGUF file of a quantized type.
    `foreign` is the name of its architecture if that is none of this program's families.
    `published` is the repository of GGUF files that the model is, as MODEL; None for other models.
    """

    name: str
    path: Path
    fingerprint: str
    context: int
    builtin: presets.BuiltinModel | None = None
    layers: int = 0
    only_sizes: str | None = None
    reads_images: bool = False
    weights: int = 0
    is_quantized: bool = False
    foreign: str | None = None
    published: str | None = None


def resolve(
    text: str,
    say: Callable[[str], None],
    planned: bool = False,
    unchanged: bool = False,
    is_repository: bool | None = None,
) -> ResolvedModel:
    """Find MODEL and open it. Raises InputError if there is none. `say` gets a line before anything that takes long.

    `planned`: only sizes are needed, so a config or a name of the catalogue is enough. `unchanged`: nothing will be
    made from the model, so it may be a quantized file. `is_repository`: see `find_model`.
    """
    found = find_model(text, Need.PLAN if planned else Need.WEIGHTS, say, is_repository)
    source = found.open(found.name, requantize=unchanged)
    only_sizes = found.insufficient(Need.WEIGHTS)
    return ResolvedModel(
        found.name,
        found.path,
        source.fingerprint,
        _context(source),
        found.builtin,
        _layers(source),
        only_sizes,
        reads_images(source),
        sum(prod(tensor.shape) for tensor in source.tensors),
        isinstance(source, GGUFSource) and source.is_quantized,
        _foreign(source),
    )


def published_model(repository: GGUFRepository) -> ResolvedModel:
    """The model that a repository of GGUF files has. Its path is the file that says most of it, or the copy of its
    header."""
    path = repository.whole.path
    source = GGUFSource(path, repository.model, requantize=True)
    on_hub = hashlib.sha256(f"published {repository.repository}".encode()).hexdigest()
    return ResolvedModel(
        repository.model,
        path,
        source.fingerprint if repository.revision is None else on_hub,
        _context(source),
        layers=_layers(source),
        reads_images=reads_images(source),
        weights=sum(prod(tensor.shape) for tensor in source.tensors),
        is_quantized=source.is_quantized,
        foreign=_foreign(source),
        published=repository.typed,
    )


def _context(source: Source) -> int:
    architecture = source.structure["general.architecture"].value
    return int(source.structure[f"{architecture}.context_length"].value)


def _layers(source: Source) -> int:
    architecture = source.structure["general.architecture"].value
    return int(source.structure[f"{architecture}.block_count"].value)


def _foreign(source: Source) -> str | None:
    architecture = str(source.structure["general.architecture"].value)
    return None if is_known(architecture) else architecture


def reads_images(source: Source) -> bool:
    """Whether a model can read images: a checkpoint with a vision tower, or a GGUF file of such an architecture."""
    if isinstance(source, HuggingFaceSource):
        return source.family.tower is not None and isinstance(source.config.get(NAME), dict)
    name = source.structure["general.architecture"].value
    return any(family.name == name and family.tower is not None for family in ARCHITECTURES)
