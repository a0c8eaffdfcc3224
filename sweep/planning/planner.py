"""Makes the cells of a plan. The reference's cells come first, then those of the other variants of its engine, then
those of other engines, each after its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import PurePath
from typing import Any

from converters.errors import InputError
from converters.llamacpp.load import LoadOptions
from sweep.artefact import Artefact
from sweep.jobs import serialization
from sweep.jobs.base import content_hash
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.image_divergence import ImageDivergenceJob
from sweep.jobs.imatrix import ImatrixJob, imatrix_identity
from sweep.jobs.inputs import Baseline, ImatrixFile
from sweep.jobs.model import MeasurementJob, engine_versions
from sweep.jobs.settings import Settings
from sweep.jobs.speech import SpeechJob
from sweep.jobs.task import TaskJob
from sweep.jobs.text import TextJob
from sweep.methods.base import Variant, cells_for, preparation_cell
from sweep.planning.baseline import ReferenceFile
from sweep.planning.imatrix import ImatrixSource
from sweep.planning.model import ResolvedModel
from sweep.results.plan import Plan, Skipped
from sweep.run_question import NO_QUESTION, RunQuestion


@dataclass(frozen=True)
class PlanSpec:
    """Everything that a plan is made from.

    `reference` is a variant, of which `reference_layers` layers go to the GPU, or the name of `reference_file`.
    `skipped` variants get no cells. `placed` variants have these parts on GPUs and in RAM. `repository` is what reports
    say of the repository that the model is. `question` is what the advice is asked. `search_order`: these variants are
    measured in this order, after the reference, until one is good enough.
    """

    model: ResolvedModel
    variants: tuple[Variant, ...]
    reference: str
    inputs: SweepInputs
    preset: str
    imatrix_source: ImatrixSource | None = None
    reference_file: ReferenceFile | None = None
    reference_layers: int | None = None
    skipped: Mapping[str, Skipped] = field(default_factory=dict)
    placed: Mapping[str, LoadOptions] = field(default_factory=dict)
    repository: Mapping[str, Any] | None = None
    question: RunQuestion = NO_QUESTION
    search_order: Mapping[str, Skipped] = field(default_factory=dict)


def make_plan(spec: PlanSpec) -> Plan:
    """Make the plan. Raises InputError if the reference is neither a file nor one of the variants."""
    ordered = _ordered(spec)
    cells: list[Cell] = []
    baselines: dict[str | None, Baseline] = {}
    if spec.reference_file is not None:
        file = spec.reference_file
        baselines[None] = Baseline(file.identity, Artefact.of(file.path))
    images: dict[str | None, dict[str, Baseline]] = {}  # by baseline and task
    if spec.reference_file is None:
        images = {variant.baseline: {} for variant in ordered}
    texts: dict[str | None, dict[str, Baseline]] = {}  # by baseline and identity of the text
    tasks: dict[str | None, dict[str, str]] = {}  # keys by baseline and task
    speech: dict[str | None, Baseline] = {}  # by baseline
    imatrix: ImatrixFile | None = None
    for index, variant in enumerate(variant for variant in ordered if variant.name not in spec.skipped):
        if index == 1 and spec.imatrix_source is not None:  # the reference collects it for the others
            imatrix = _imatrix(spec.imatrix_source, spec.inputs, ordered[0], cells)
        known = texts.get(variant.baseline, {})
        inputs = replace(
            _inputs_of(variant, spec),
            image_references=images.get(variant.baseline),
            text_references=known,
            task_references=tasks.get(variant.baseline, {}),
            speech_reference=speech.get(variant.baseline),
        )
        own = cells_for(variant, inputs, imatrix, baselines.get(variant.baseline))
        made = {  # variants of one recipe share a checkpoint
            cell.key for cell in cells if cell.job.is_preparation and not cell.job.has_cell_per_variant
        }
        cells += [cell for cell in own if cell.key not in made]
        text = next((cell for cell in own if cell.name == "text"), None)
        if text is not None:
            baselines.setdefault(variant.baseline, Baseline(text.key, text.output, text.key))
        for cell in own:
            if isinstance(cell.job, TextJob) and cell.name != "text":
                written = Baseline(cell.key, cell.output, cell.key)
                texts[variant.baseline] = {cell.job.text.identity: written} | texts.get(variant.baseline, {})
            if isinstance(cell.job, SpeechJob):
                speech.setdefault(variant.baseline, Baseline(cell.key, cell.output, cell.key))
            if isinstance(cell.job, TaskJob):
                tasks[variant.baseline] = {cell.name: cell.key} | tasks.get(variant.baseline, {})
            if isinstance(cell.job, ImageDivergenceJob):
                written = Baseline(cell.key, cell.output, cell.key)
                images[variant.baseline] = {cell.job.task.name: written} | images[variant.baseline]
    return Plan(
        run=_run_name(spec, cells),
        model=spec.model.name,
        preset=spec.preset,
        reference=spec.reference,
        variants=tuple(variant.name for variant in spec.variants),
        settings=spec.inputs.settings,
        resources=spec.inputs.resources,
        about=_about(spec),
        cells=tuple(cells),
        made_of=_made_of(spec.reference_file, cells),
        skipped=spec.skipped,
        question=spec.question,
    )


def _inputs_of(variant: Variant, spec: PlanSpec) -> SweepInputs:
    """The inputs of a variant. The reference that others are compared with has a cache of the default type, and a
    placement of its own."""
    inputs = spec.inputs
    place = spec.placed.get(variant.name)
    if variant.name != spec.reference and place is not None:
        placed = replace(
            inputs.settings,
            gpu_layers=place.gpu_layers,
            cpu_moe=place.cpu_moe,
            tensor_split=place.tensor_split,
        )
        return replace(inputs, settings=placed)
    if variant.name != spec.reference or inputs.single:
        return inputs
    settings = replace(inputs.settings, kv_type=Settings.kv_type)
    if spec.reference_layers is not None:
        settings = replace(settings, gpu_layers=spec.reference_layers)
    return replace(inputs, settings=settings)


def _ordered(spec: PlanSpec) -> Sequence[Variant]:
    if spec.search_order:
        places = _search_places(spec)
        ordered = sorted(spec.variants, key=lambda one: (one.name != spec.reference, places.get(one.name, -1)))
    else:
        ordered = sorted(spec.variants, key=lambda one: (one.name != spec.reference, one.baseline is not None))
    if spec.reference_file is None and (not ordered or ordered[0].name != spec.reference):
        raise InputError(f"the reference {spec.reference} is not among the variants; add it with --variants")
    source = spec.imatrix_source
    if spec.reference_file is not None and source is not None and source.file is None:
        raise InputError(
            "--imatrix auto needs a model as reference, because the reference reads the text; give --imatrix FILE"
        )
    return ordered


def _search_places(spec: PlanSpec) -> dict[str, float]:
    """The places of variants in a search. What others are compared with comes right before the first of them."""
    places: dict[str, float] = {name: place for place, name in enumerate(spec.search_order)}
    for one in spec.variants:
        if one.baseline is not None and one.name in spec.search_order:
            places[one.baseline] = min(places.get(one.baseline, inf), places[one.name] - 0.5)
    return places


def _run_name(spec: PlanSpec, cells: Sequence[Cell]) -> str:
    """The run's id: the model, the preset, and a hash of all keys."""
    content: dict[str, Any] = {"cells": [cell.key for cell in cells], "model": spec.model.name}
    content["preset"] = spec.preset
    if spec.search_order:
        content["search"] = list(spec.search_order)
    if spec.skipped:
        content["skipped"] = {name: serialization.to_json(why) for name, why in spec.skipped.items()}
    return f"{spec.model.name}-{spec.preset}-{content_hash(content)[:6]}"


def _about(spec: PlanSpec) -> dict[str, Any]:
    """What reports say about the plan."""
    model, inputs, source = spec.model, spec.inputs, spec.imatrix_source
    about: dict[str, Any] = {
        "model": model.published or (str(model.path) if model.builtin is None else f"{model.name} (built in)"),
        "weights": model.weights,
        **({} if spec.repository is None else {"repository": spec.repository}),
        "text": None if inputs.text is None else inputs.text.name,
        "other_texts": [text.name for text in inputs.other_texts],
        "tasks": {task.name: task.options.limit for task in inputs.tasks},
        "task_settings": {task.name: task.options.words for task in inputs.tasks},
        "imatrix": None if source is None else source.name,
        "imatrix_told": [] if source is None else source.messages,
        "engine": engine_versions("gguf"),
    }
    if inputs.speech is not None:
        own = inputs.speech
        about["speech"] = {
            "name": own.measured.name,
            "recordings": own.measured.count,
            "minutes": round(own.measured.seconds / 60, 1),
            "language": own.measured.language,
            "calibration": None if own.calibration is None else own.calibration.name,
        }
    if inputs.measure:
        about["measure"] = list(inputs.measure)
    if inputs.draft is not None:
        about["draft"] = PurePath(inputs.draft.file.name).name
    for method in dict.fromkeys(type(variant) for variant in spec.variants):
        about |= method.plan_details(inputs)
    return about


def _made_of(file: ReferenceFile | None, cells: Sequence[Cell]) -> str | None:
    """The variant whose file has the name of the model file that the reference file was made from; None if there is
    none."""
    if file is None:
        return None
    models = ((cell.variant, cell.job.model) for cell in cells if isinstance(cell.job, MeasurementJob))
    return next((variant for variant, model in models if model.file.name.rpartition("/")[2] == file.model), None)


def _imatrix(source: ImatrixSource, inputs: SweepInputs, reference: Variant, cells: list[Cell]) -> ImatrixFile:
    """The user's importance matrix, or the one that the reference collects in a cell that is added to `cells`."""
    if source.file is not None:
        return ImatrixFile(Artefact.of(source.file), source.identity)
    preparation, model = reference.prepare(inputs, None)
    content = preparation[0].key if preparation else cells[0].key
    assert source.text is not None  # one of the two is given
    identity = content_hash(imatrix_identity(content, source.identity, model.engine, inputs.settings))
    matrix = inputs.artefact(f"{inputs.origin.name}-{identity[:8]}.imatrix.gguf")
    text = Artefact.of(source.text)
    job = ImatrixJob(
        model.file, text, matrix, content, source.identity, identity, model.engine, inputs.settings, source.form
    )
    cell = preparation_cell(reference, "imatrix", job, inputs, tuple(one.key for one in preparation))
    cells.append(cell)
    return ImatrixFile(matrix, identity, cell.key)
