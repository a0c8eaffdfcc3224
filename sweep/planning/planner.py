"""Cuts what is wanted of a model into cells: the reference's first, then those of other variants of its engine, then
those of other engines with the baseline of each before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs import wire
from sweep.jobs.base import content_hash
from sweep.jobs.cell import Asked, Cell
from sweep.jobs.given import Baseline, ImportanceFile
from sweep.jobs.imatrix import ImatrixJob, made_of
from sweep.jobs.model import MeasuringJob, engine_of
from sweep.methods.base import Variant, cells_of, making_cell
from sweep.planning.baseline import ReferenceFile
from sweep.planning.calibration import Calibration
from sweep.planning.model import ResolvedModel
from sweep.results.plan import Plan, TooLarge


@dataclass(frozen=True)
class Wanted:
    """What a plan is made of. `reference` is a variant, of which `reference_layers` go to the GPU, or the name of
    `reference_file`. `importance` is where the importance of weights comes from. `skipped` variants get no cells."""

    model: ResolvedModel
    variants: tuple[Variant, ...]
    reference: str
    asked: Asked
    preset: str
    importance: Calibration | None = None
    reference_file: ReferenceFile | None = None
    reference_layers: int | None = None
    skipped: Mapping[str, TooLarge] = field(default_factory=dict)


def make_plan(wanted: Wanted) -> Plan:
    """Raises InputError where the reference is neither a file nor among the variants."""
    ordered = _ordered(wanted)
    cells: list[Cell] = []
    baselines: dict[str | None, Baseline] = {}
    if wanted.reference_file is not None:
        file = wanted.reference_file
        baselines[None] = Baseline(file.identity, Artefact.of(file.path))
    importance: ImportanceFile | None = None
    for index, variant in enumerate(variant for variant in ordered if variant.name not in wanted.skipped):
        if index == 1 and wanted.importance is not None:  # the reference is made; others are made by what it finds
            importance = _importance(wanted.importance, wanted.asked, ordered[0], cells)
        asked = wanted.asked
        if wanted.reference_layers is not None and variant.name == wanted.reference:
            asked = replace(asked, settings=replace(asked.settings, gpu_layers=wanted.reference_layers))
        own = cells_of(variant, asked, importance, baselines.get(variant.baseline))
        made = {cell.key for cell in cells if cell.job.making}  # variants of one recipe share a checkpoint
        cells += [cell for cell in own if cell.key not in made]
        text = next((cell for cell in own if cell.name == "text"), None)
        if text is not None:
            baselines.setdefault(variant.baseline, Baseline(text.key, text.makes, text.key))
    return Plan(
        run=_run_name(wanted, cells),
        model=wanted.model.name,
        preset=wanted.preset,
        reference=wanted.reference,
        variants=tuple(variant.name for variant in wanted.variants),
        settings=wanted.asked.settings,
        where=wanted.asked.where,
        about=_about(wanted),
        cells=tuple(cells),
        made_of=_made_of(wanted.reference_file, cells),
        skipped=wanted.skipped,
    )


def _ordered(wanted: Wanted) -> Sequence[Variant]:
    ordered = sorted(wanted.variants, key=lambda one: (one.name != wanted.reference, one.baseline is not None))
    if wanted.reference_file is None and (not ordered or ordered[0].name != wanted.reference):
        raise InputError(f"the reference {wanted.reference} is not among the variants; add it with --variants")
    importance = wanted.importance
    if wanted.reference_file is not None and importance is not None and importance.file is None:
        raise InputError("--imatrix auto is collected by the reference, and a file cannot read; give --imatrix FILE")
    return ordered


def _run_name(wanted: Wanted, cells: Sequence[Cell]) -> str:
    """Of the model, the preset and all keys."""
    content: dict[str, Any] = {"cells": [cell.key for cell in cells], "model": wanted.model.name}
    content["preset"] = wanted.preset
    if wanted.skipped:
        content["skipped"] = {name: wire.plain(why) for name, why in wanted.skipped.items()}
    return f"{wanted.model.name}-{wanted.preset}-{content_hash(content)[:6]}"


def _about(wanted: Wanted) -> dict[str, Any]:
    """What the plan is about, for reports."""
    model, asked, importance = wanted.model, wanted.asked, wanted.importance
    about: dict[str, Any] = {
        "model": str(model.path) if model.builtin is None else f"{model.name} (built in)",
        "text": None if asked.text is None else asked.text.name,
        "tasks": {task.name: task.options.limit for task in asked.tasks},
        "task_settings": {task.name: task.options.words for task in asked.tasks},
        "imatrix": None if importance is None else importance.name,
        "imatrix_told": [] if importance is None else importance.told,
        "engine": engine_of("gguf"),
    }
    for method in dict.fromkeys(type(variant) for variant in wanted.variants):
        about |= method.conditions(asked)
    return about


def _made_of(file: ReferenceFile | None, cells: Sequence[Cell]) -> str | None:
    """The variant whose file has the name of the one that the reference's distributions are of."""
    if file is None:
        return None
    models = ((cell.variant, cell.job.model) for cell in cells if isinstance(cell.job, MeasuringJob))
    return next((variant for variant, model in models if model.file.name.rpartition("/")[2] == file.model), None)


def _importance(given: Calibration, asked: Asked, reference: Variant, cells: list[Cell]) -> ImportanceFile:
    """A file as it is, or one that the reference makes by reading the text, in a cell added to `cells`."""
    if given.file is not None:
        return ImportanceFile(Artefact.of(given.file), given.identity)
    making, model = reference.made(asked, None)
    content = making[0].key if making else cells[0].key
    assert given.text is not None  # one of the two is given
    identity = content_hash(made_of(content, given.identity, model.engine, asked.settings))
    matrix = asked.artefact(f"{asked.origin.name}-{identity[:8]}.imatrix.gguf")
    text = Artefact.of(given.text)
    job = ImatrixJob(model.file, text, matrix, content, given.identity, identity, model.engine, asked.settings)
    cell = making_cell(reference, "imatrix", job, asked, tuple(one.key for one in making))
    cells.append(cell)
    return ImportanceFile(matrix, identity, cell.key)
