"""`sweep ablate`: measures many int8 recipes of one model on the same text.

It is a plan of ordinary cells: one that reads the calibration text, one for the float model, and one for each recipe.
Every result is stored under its key, so an interrupted ablation loses only the recipe that was running.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import presets
from converters.checkpoint import Checkpoint
from converters.errors import InputError
from converters.resolver import Need, find_model
from int8 import design_space
from int8.architectures import require_quantizable
from int8.quantize_model import require_device
from int8.recipe import Recipe
from sweep import __version__, devices
from sweep.analysis.ablation import Ablation, RecipeFailure, RecipeMeasurement, name_of, ranked
from sweep.artefact import Artefact
from sweep.events import Event
from sweep.execution.local import LocalExecutor, LocalHost
from sweep.execution.scheduler import Scheduler
from sweep.jobs.ablation import RecipeJob, RecipeResult, Study, SurveyJob
from sweep.jobs.base import content_hash
from sweep.jobs.cell import Cell
from sweep.jobs.input_checks import InputCheckJob
from sweep.jobs.settings import ComputeResources
from sweep.measure.plain_text import read_text
from sweep.planning.model import ResolvedModel
from sweep.planning.texts import FoundText, calibration_text, text_for
from sweep.record import Perplexity
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace, open_workspace, sharing

FLOAT_MODEL = "the float model"


@dataclass(frozen=True)
class AblationRequest:
    """The user's options. `space` is a design space's file; None: the one that comes with the program. `perplexity` is
    the file of the text, of which at most `windows` windows of `window` tokens are measured. `calibration` is a file's
    path or a name; `samples` samples of `length` tokens of it are read. `parse_special` reads special tokens in both
    texts as such."""

    model: str
    space: Path | None = None
    calibration: str | None = None
    samples: int | None = None
    length: int | None = None
    perplexity: Path | None = None
    window: int = 512
    windows: int = 64
    dtype: str = "bfloat16"
    device: str | None = None
    workspace: Path | None = None
    parse_special: bool = False


@dataclass(frozen=True)
class AblationPlan:
    """The cells and what they were made from. `calibration` is the name of the calibration text."""

    study: Study
    resources: ComputeResources
    space: design_space.DesignSpace
    cells: tuple[Cell, ...]
    workspace: Workspace
    calibration: str

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes by the key of their cell."""
        return {
            cell.key: cell.job.recipe
            for cell in self.cells
            if isinstance(cell.job, RecipeJob) and cell.job.recipe is not None
        }

    @property
    def name(self) -> str:
        """The ablation's id: the model, and a hash of the recipes and everything that their results depend on."""
        identity = [self.study.identity(self.resources), sorted(self.recipes)]
        return f"{self.study.name}-{content_hash(identity)[:8]}"

    @property
    def about(self) -> dict[str, object]:
        """How the recipes are measured: names and values that the report prints in this order."""
        study = self.study
        windows = f"at most {study.windows} windows of {study.window} tokens, second half scored"
        samples = f"{study.samples or 'up to 1000'} samples of {study.length or 256} tokens"
        return {
            "model": study.name,
            "reference": f"the model in {study.dtype}; recipes are fake-quantized, other layers in {study.dtype}",
            "text": f"{study.text.name}, {windows}",
            "calibration": f"{self.calibration}, {samples}",
            "device": f"{self.resources.device('torch')}, {self.resources.threads} threads",
            "engine": study.engine,
            "bitsweep": __version__,
        }


def prepare(request: AblationRequest, say: Callable[[str], None]) -> AblationPlan:
    """Plan an ablation. Raises InputError for bad input or a model that cannot be measured, MissingRuntime for a
    missing device."""
    space = design_space.load(request.space or presets.DESIGN_SPACE)
    if request.windows < 2:
        raise InputError("--windows must be at least 2, because standard errors are computed from several windows")
    workspace = open_workspace(request.workspace)
    device = request.device or devices.torch_device()
    require_device(device)
    found = find_model(request.model, Need.CHECKPOINT, say)
    name, path = found.name, found.path
    require_quantizable(path)
    builtin = presets.builtin_models().get(request.model)
    with Checkpoint.open(path, name) as checkpoint:
        model = ResolvedModel(name, path, checkpoint.fingerprint, 0, builtin)
    text = _downloaded(text_for(model, request.perplexity, request.parse_special), workspace, say)
    calibration = _downloaded(calibration_text(request.calibration, builtin, request.parse_special), workspace, say)
    for note in dict.fromkeys(found.note for found in (text, calibration) if found.note is not None):
        say(note)
    study = Study(
        source=Artefact.of(path),
        model=model.fingerprint,
        name=name,
        dtype=request.dtype,
        text=replace(text.file, identity=_identity(text, text.file.file.under(workspace.root).read_bytes())),
        window=request.window,
        windows=request.windows,
        calibration=replace(
            calibration.file,
            identity=_identity(calibration, read_text(calibration.file.file.under(workspace.root)).encode()),
        ),
        folder=f"artefacts/{model.fingerprint[:16]}",
        samples=request.samples,
        length=request.length,
    )
    resources = ComputeResources(devices.threads(), {"torch": device})
    cells = tuple(_cells(study, space, resources))
    return AblationPlan(study, resources, space, cells, workspace, calibration.name)


def ablate(plan: AblationPlan, emit: Callable[[Event], None]) -> tuple[Ablation, Path]:
    """Measure the recipes without a stored result. Returns the result and the path for its HTML page.

    A recipe that fails is left out. Raises InputError if the float model cannot be measured."""
    workspace = plan.workspace
    directory = workspace.ablations / plan.name
    directory.mkdir(parents=True, exist_ok=True)
    with Store(workspace.database) as store, sharing(workspace.artefacts(plan.study.model)):
        with LocalExecutor(workspace.root, directory, plan.resources) as executor:
            Scheduler(plan.cells, store, executor, workspace.root, directory, emit).run(plan.name)
        outcomes = store.outcomes(cell.key for cell in plan.cells)
    reference = _reference(plan, outcomes)
    known = {key: outcomes[key] for key in plan.recipes}
    cells = {cell.key: cell for cell in plan.cells}
    measured = {
        plan.recipes[key]: _measured(cells[key], outcome, plan.name)
        for key, outcome in known.items()
        if outcome.status == "ok"
    }
    result = Ablation(
        model=plan.study.name,
        space=plan.space,
        reference=reference.perplexity,
        points=ranked(measured, reference.window_nll),
        failed=tuple(
            RecipeFailure(plan.recipes[key], row.status, row.error)
            for key, row in known.items()
            if row.error is not None
        ),
        about=plan.about,
    )
    return result, workspace.ablations / f"{plan.name}.html"


def _cells(study: Study, space: design_space.DesignSpace, resources: ComputeResources) -> list[Cell]:
    """All cells belong to one variant, so one worker runs them and keeps the model loaded."""
    float_key = content_hash(RecipeJob(study, Artefact("")).identity(resources))
    distributions = Artefact(f"{study.folder}/reference-{float_key[:16]}.logprobs")
    survey, reference = SurveyJob(study), RecipeJob(study, distributions)
    cells = [Cell(survey.key(resources), study.name, "reading the calibration text", survey)]
    cells.append(Cell(reference.key(resources), study.name, FLOAT_MODEL, reference))
    for recipe in space.points:
        job = RecipeJob(study, distributions, recipe)
        needs = (reference.key(resources), *([survey.key(resources)] if recipe.needs_text else []))
        cells.append(Cell(job.key(resources), study.name, name_of(recipe), job, needs))
    return cells


def _downloaded(text: FoundText, workspace: Workspace, say: Callable[[str], None]) -> FoundText:
    """The text, after it was downloaded if its file did not exist."""
    if text.dataset is not None and not text.file.file.under(workspace.root).is_file():
        say(f"fetching {text.name}")
        with LocalHost(workspace.root) as host:
            host.run_job(InputCheckJob(dataset=text.dataset))
    return text


def _identity(text: FoundText, content: bytes) -> str:
    """A hash of the content, and how it is read."""
    return hashlib.sha256(content).hexdigest() + text.how_read


def _reference(plan: AblationPlan, outcomes: dict[str, Outcome]) -> RecipeMeasurement:
    (cell,) = (cell for cell in plan.cells if cell.name == FLOAT_MODEL)
    outcome = outcomes[cell.key]
    if outcome.error is not None:
        raise InputError(outcome.error)
    return _measured(cell, outcome, plan.name)


def _measured(cell: Cell, outcome: Outcome, run: str) -> RecipeMeasurement:
    """The float model has no divergence from itself."""
    found: RecipeResult = outcome.result(cell, run)
    perplexity, divergence = found.perplexity, found.divergence
    figures: Any = None if divergence is None else divergence.figures
    return RecipeMeasurement(
        Perplexity(perplexity.value, perplexity.stderr, perplexity.tokens, perplexity.low, perplexity.high),
        perplexity.window_nll,
        () if divergence is None else divergence.window_kld,
        0.0 if figures is None else figures.kld_mean,
        0.0 if figures is None else figures.kld_stderr,
        1.0 if figures is None else figures.top1_agreement,
    )
