"""The images of a sweep: whether a task has any, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from converters.errors import InputError
from converters.huggingface_source import HuggingFaceSource
from converters.llamacpp.reader import read_header
from converters.projector_source import ProjectorSource
from converters.resolver import Need, open_source
from converters.source import Source
from images.preprocessing import Preprocessing, read_preprocessing
from sweep.backends.projector_settings import settings_of
from sweep.jobs.cell import SweepImages
from sweep.jobs.images import ImageSettings
from sweep.jobs.inputs import Task
from sweep.methods.base import Variant
from sweep.methods.projector import projector_beside
from sweep.planning.model import ResolvedModel
from sweep.planning.request import Request
from sweep.variant_name import split_projector


def sweep_images(
    request: Request, model: ResolvedModel, variants: Sequence[Variant], tasks: Iterable[Task]
) -> SweepImages | None:
    """How images are read; None if no task has any. Raises InputError if the model cannot read them, or if an option or
    a variant is only for images and no task has any."""
    first = next((task.name for task in tasks if task.takes_images), None)
    if first is None:
        _reject_unused(request, variants, model)
        return None
    if not model.reads_images:
        raise InputError(
            f"task {first}: its questions have images, but {model.name} is a text model; choose other tasks, or a "
            "vision model"
        )
    source = open_source(model.path, model.name, requantize=True, need=Need.PLAN)
    if isinstance(source, HuggingFaceSource):
        tower = ProjectorSource(source, needs_normalization=not request.dry_run)
        if request.dry_run and not source.path.is_dir():  # a config alone
            return SweepImages(_limited(settings_of(source.path, tower.metadata), request), tower.fingerprint)
        return SweepImages(_limited(read_preprocessing(source.path), request), tower.fingerprint)
    return SweepImages(_limited(_of_projector(source, variants), request), None)


def _reject_unused(request: Request, variants: Sequence[Variant], model: ResolvedModel) -> None:
    why = "no task of this sweep has images" if model.reads_images else f"{model.name} is a text model"
    for option, given in (("--min-pixels", request.min_pixels), ("--max-pixels", request.max_pixels)):
        if given is not None:
            raise InputError(f"{option} is for tasks with images, but {why}; leave it out")
    named = next((variant.name for variant in variants if variant.names_projector), None)
    if named is not None:
        raise InputError(
            f"{named}: {why}, so its projector file changes nothing; write {split_projector(named)[0]}"
            + (", or choose a task with images by --tasks" if model.reads_images else "")
        )


def _limited(settings: Preprocessing, request: Request) -> ImageSettings:
    limited = settings.limited(request.min_pixels, request.max_pixels)
    if limited.min_pixels > limited.max_pixels:
        raise InputError(
            f"images would have at least {limited.min_pixels:,} and at most {limited.max_pixels:,} pixels; choose "
            "other limits with --min-pixels and --max-pixels"
        )
    given = request.min_pixels is not None or request.max_pixels is not None
    return ImageSettings(replace(limited, fixed=given), request.image_cache)


def _of_projector(source: Source, variants: Sequence[Variant]) -> Preprocessing:
    """The settings of the first projector file that a variant names, or of the one next to the model's file."""
    named = next((file for variant in variants if (file := variant.projector_file) is not None), None)
    path: Path | None = named or projector_beside(variants[0].name, source.structure, source.path)
    assert path is not None  # no type is asked for
    return settings_of(path, read_header(path).metadata)
