"""The projector file of a GGUF variant, which llama.cpp needs to read images: +mmproj=TYPE|FILE in the variant's name.

A variant that names none has the default type if its model is a checkpoint, from which the file is made, or else the
projector file next to its own file. If there are several, their names say the type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from converters.gguf_source import gguf_fingerprint
from converters.llamacpp.container import Field
from converters.plan import projector_name
from converters.projector_file import DEFAULT_TYPE, of_type, projectors_beside, read_projector
from converters.recipes import PROJECTOR_QUANTS, projector_recipes
from sweep.artefact import Artefact
from sweep.backends.projector_settings import require_same_settings, settings_of
from sweep.jobs.cell import SweepInputs
from sweep.jobs.images import ImageInputs
from sweep.jobs.model import engine_versions
from sweep.jobs.projector import ProjectorJob
from sweep.variant_name import MMPROJ, split_projector


@dataclass(frozen=True)
class Projector:
    """What a variant's name says of its projector file: a type to make from the checkpoint, or a file."""

    quant: str | None = None
    file: Path | None = None

    @property
    def suffix(self) -> str:
        """For the end of a variant's name."""
        return f"{MMPROJ}{self.quant or (self.file and self.file.name)}"


def parse_projector(text: str) -> tuple[str, Projector | None]:
    """The part of a variant's name before +mmproj=, and what follows; None for the default. Raises InputError."""
    base, chosen = split_projector(text)
    if chosen is None:
        return base, None
    if chosen.upper() not in PROJECTOR_QUANTS and (chosen.endswith(".gguf") or "/" in chosen):
        file = Path(chosen).expanduser()
        if not file.is_file():
            raise InputError(f"{text}: there is no such projector file: {chosen}")
        return base, Projector(file=file.resolve())
    try:
        (recipe,) = projector_recipes([chosen])
    except InputError as error:
        raise InputError(f"{text}: {error}, or the path of a .gguf file") from error
    return base, None if recipe.name == DEFAULT_TYPE else Projector(recipe.name)


def projector_job(
    variant: str, projector: Projector | None, text: Mapping[str, Field], file: Path | None, inputs: SweepInputs
) -> ProjectorJob:
    """The job of the projector file of the variant called `variant`. `text` are the metadata of its text model, and
    `file` is its file if it has one.

    Raises InputError if there is no projector file, or if it belongs to another model.
    """
    assert inputs.images is not None
    origin, engine, tower = inputs.origin, engine_versions("gguf"), inputs.images.tower
    own = None if projector is None else projector.file
    quant = None if projector is None else projector.quant
    if own is None and tower is None:
        own = projector_beside(variant, text, file, quant)
    if own is not None:
        settings = settings_of(own, read_projector(own, text, variant).metadata)
        require_same_settings(
            own, settings.patch, settings.merge, settings.mean, settings.std, inputs.images.settings.preprocessing
        )
        return ProjectorJob(own.name, own.name, own.name, Artefact.of(own), gguf_fingerprint(own), engine)
    if tower is None:
        raise InputError(
            f"{variant}: no {quant} projector file can be made, because the model is a GGUF file; give the file's path"
        )
    (recipe,) = projector_recipes([quant or DEFAULT_TYPE])
    made = inputs.artefact(projector_name(origin.name, recipe.name))
    return ProjectorJob(origin.name, recipe.name, recipe.label, made, tower, engine, origin.source)


def image_inputs(job: ProjectorJob, inputs: SweepInputs) -> ImageInputs:
    """What a model with this projector file needs to take images."""
    assert inputs.images is not None
    return ImageInputs(inputs.images.settings, job.file, job.key(inputs.resources))


def projector_beside(
    variant: str, text: Mapping[str, Field], file: Path | None, quant: str | None = None
) -> Path | None:
    """The projector file next to the variant's own file that belongs to it. If there are several, it is that of the
    type `quant`, or of the default type. Raises InputError if there is none; returns None if none is a `quant`."""
    fitting, reasons = [], []
    for path in () if file is None else projectors_beside(file):
        try:
            read_projector(path, text, variant)
            fitting.append(path)
        except InputError as error:
            reasons.append(error)
    if quant is not None:
        return of_type(fitting, quant)
    if len(fitting) == 1:
        return fitting[0]
    if (usual := of_type(fitting, DEFAULT_TYPE)) is not None:
        return usual
    if fitting:
        names = ", ".join(path.name for path in fitting)
        raise InputError(f"{variant}: has several projector files next to it: {names}; add {MMPROJ}FILE to choose one")
    if reasons:
        raise reasons[0]
    raise InputError(
        f"{variant}: this model reads images only with its projector file; add {MMPROJ}FILE to the variant's name, or "
        "give the checkpoint as MODEL"
    )
