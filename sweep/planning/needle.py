"""Needle tasks in --tasks: needle_4096 is a task file that is made for the model, with texts of 4,096 tokens."""

from __future__ import annotations

from pathlib import Path

from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs.base import RunJob
from sweep.jobs.inputs import Origin
from sweep.jobs.needle import NeedleJob
from sweep.measure.needle import LEAST_TOKENS, NAME
from sweep.planning.model import ResolvedModel


def is_needle(name: str) -> bool:
    """Whether the name is that of a needle task. Raises InputError if it has no number of tokens."""
    if name == "needle" or (name.startswith("needle_") and NAME.fullmatch(name) is None):
        raise InputError(f"{name}: a needle task is named by its number of tokens: needle_4096")
    return NAME.fullmatch(name) is not None


def with_needle_files(
    names: tuple[str, ...] | None, model: ResolvedModel, origin: Origin, folder: Path, run_job: RunJob
) -> tuple[str, ...] | None:
    """The names of tasks, with the paths of task files in place of needle tasks. The files are made in `folder`.

    Raises InputError for a text that is longer than the model's context, or too short for a question.
    """
    lengths = {name: int(NAME.sub(r"\1", name)) for name in names or () if is_needle(name)}
    if names is None or not lengths:
        return names
    for name, length in lengths.items():
        if length > model.context:
            raise InputError(
                f"{name}: {length} tokens are more than the {model.context} that {model.name} was trained for"
            )
        if length < LEAST_TOKENS:
            raise InputError(f"{name}: {length} tokens are too few for the questions; the least are {LEAST_TOKENS}")
    run_job(NeedleJob(origin.source, origin.name, tuple(lengths.values()), Artefact.of(folder)))
    return tuple(str(folder / name / f"{name}.yaml") if name in lengths else name for name in names)
