"""Many int8 recipes on one model, each over the same text: `sweep ablate`.

It is a plan of ordinary cells: a reading of the calibration text, the float model, and a cell for each recipe. What is
measured is kept by content, so that whatever ends the work costs the recipe in hand alone.
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
from int8.build import require_device
from int8.recipe import Recipe
from sweep import __version__, devices
from sweep.analysis.ablation import Ablation, Measured, name_of, ranked
from sweep.artefact import Artefact
from sweep.events import Event
from sweep.execution.local import LocalExecutor, LocalHost
from sweep.execution.scheduler import Scheduler
from sweep.jobs.ablation import RecipeJob, RecipeResult, Study, SurveyJob
from sweep.jobs.base import content_hash
from sweep.jobs.cell import Cell
from sweep.jobs.inputs import InputsJob
from sweep.jobs.settings import Where
from sweep.measure.plain_text import read_text
from sweep.planning.inputs import FoundText, calibration_text, text_for
from sweep.planning.model import ResolvedModel
from sweep.record import Perplexity
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace, open_workspace, sharing

FLOAT = "the float model"


@dataclass(frozen=True)
class AblationRequest:
    """What the user asked for. `space` is a file, None for the one that comes with the program; `perplexity` is the
    text's file, of which `windows` windows of `window` tokens are read; `calibration` a file's path or a name."""

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


@dataclass(frozen=True)
class AblationPlan:
    """The cells, the reference's first, and what they were made from."""

    study: Study
    where: Where
    space: design_space.DesignSpace
    cells: tuple[Cell, ...]
    workspace: Workspace
    calibration: str

    @property
    def recipes(self) -> dict[str, Recipe]:
        """By key."""
        return {
            cell.key: cell.job.recipe
            for cell in self.cells
            if isinstance(cell.job, RecipeJob) and cell.job.recipe is not None
        }

    @property
    def name(self) -> str:
        """Of the model, the recipes and all that they depend on."""
        identity = [self.study.identity(self.where), sorted(self.recipes)]
        return f"{self.study.name}-{content_hash(identity)[:8]}"

    @property
    def about(self) -> dict[str, object]:
        """How it is measured, for the report: names and values to print in this order."""
        study = self.study
        windows = f"{study.windows} windows of {study.window} tokens at most, second half scored"
        samples = f"{study.samples or 'up to 1000'} samples of {study.length or 256} tokens"
        return {
            "model": study.name,
            "reference": f"the model in {study.dtype}; recipes are fake-quantized, all else in {study.dtype}",
            "text": f"{study.text.name}, {windows}",
            "calibration": f"{self.calibration}, {samples}",
            "device": f"{self.where.device('torch')}, {self.where.threads} threads",
            "engine": study.engine,
            "bitsweep": __version__,
        }


def prepare(request: AblationRequest, say: Callable[[str], None]) -> AblationPlan:
    """Raises InputError for bad input and a model that cannot be measured, MissingRuntime for a missing device."""
    space = design_space.load(request.space or presets.DESIGN_SPACE)
    if request.windows < 2:
        raise InputError("--windows must be at least 2: errors are of differences between windows")
    workspace = open_workspace(request.workspace)
    device = request.device or devices.torch_device()
    require_device(device)
    found = find_model(request.model, Need.CHECKPOINT, say)
    name, path = found.name, found.path
    require_quantizable(path)
    builtin = presets.builtin_models().get(request.model)
    with Checkpoint.open(path, name) as checkpoint:
        model = ResolvedModel(name, path, checkpoint.fingerprint, 0, builtin)
    text = _here(text_for(model, request.perplexity), workspace, say)
    calibration = _here(calibration_text(request.calibration, builtin), workspace, say)
    study = Study(
        source=Artefact.of(path),
        model=model.fingerprint,
        name=name,
        dtype=request.dtype,
        text=replace(text.file, identity=_digest(text.file.file.under(workspace.root).read_bytes())),
        window=request.window,
        windows=request.windows,
        calibration=replace(
            calibration.file, identity=_digest(read_text(calibration.file.file.under(workspace.root)).encode())
        ),
        folder=f"artefacts/{model.fingerprint[:16]}",
        samples=request.samples,
        length=request.length,
    )
    where = Where(devices.threads(), {"torch": device})
    cells = tuple(_cells(study, space, where))
    return AblationPlan(study, where, space, cells, workspace, calibration.name)


def ablate(plan: AblationPlan, emit: Callable[[Event], None]) -> tuple[Ablation, Path]:
    """Measure what is not known yet; gives the result, and where its page belongs. A recipe that fails costs its own
    point. Raises InputError where the float model cannot be measured."""
    workspace = plan.workspace
    directory = workspace.ablations / plan.name
    directory.mkdir(parents=True, exist_ok=True)
    with Store(workspace.database) as store, sharing(workspace.artefacts(plan.study.model)):
        with LocalExecutor(workspace.root, directory, plan.where) as executor:
            Scheduler(plan.cells, store, executor, workspace.root, directory, emit).run(plan.name)
        outcomes = store.outcomes(cell.key for cell in plan.cells)
    reference = _reference(plan, outcomes)
    known = {key: outcomes[key] for key in plan.recipes}
    found = {plan.recipes[key]: _measured(outcome) for key, outcome in known.items() if outcome.status == "ok"}
    result = Ablation(
        model=plan.study.name,
        space=plan.space,
        reference=reference.perplexity,
        points=ranked(found, reference.window_nll),
        failed=tuple((plan.recipes[key], found.error) for key, found in known.items() if found.error is not None),
        about=plan.about,
    )
    return result, workspace.ablations / f"{plan.name}.html"


def _cells(study: Study, space: design_space.DesignSpace, where: Where) -> list[Cell]:
    """In one worker, where the model stays loaded: they are of one variant."""
    float_key = content_hash(RecipeJob(study, Artefact("")).identity(where))
    distributions = Artefact(f"{study.folder}/reference-{float_key[:16]}.logprobs")
    survey, reference = SurveyJob(study), RecipeJob(study, distributions)
    cells = [Cell(survey.key(where), study.name, "reading the calibration text", survey)]
    cells.append(Cell(reference.key(where), study.name, FLOAT, reference))
    for recipe in space.points:
        job = RecipeJob(study, distributions, recipe)
        needs = (reference.key(where), *([survey.key(where)] if recipe.needs_text else []))
        cells.append(Cell(job.key(where), study.name, name_of(recipe), job, needs))
    return cells


def _here(text: FoundText, workspace: Workspace, say: Callable[[str], None]) -> FoundText:
    """A text that is to be read now, fetched where it is not here yet."""
    if text.dataset is not None and not text.file.file.under(workspace.root).is_file():
        say(f"fetching {text.name}")
        LocalHost(workspace.root).ask(InputsJob(dataset=text.dataset))
    return text


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reference(plan: AblationPlan, outcomes: dict[str, Outcome]) -> Measured:
    (cell,) = (cell for cell in plan.cells if cell.name == FLOAT)
    outcome = outcomes[cell.key]
    if outcome.error is not None:
        raise InputError(outcome.error)
    return _measured(outcome)


def _measured(outcome: Outcome) -> Measured:
    """The float model has no divergence from itself."""
    found: RecipeResult = outcome.result(RecipeJob.kind)
    perplexity, divergence = found.perplexity, found.divergence
    figures: Any = None if divergence is None else divergence.figures
    return Measured(
        Perplexity(perplexity.value, perplexity.stderr, perplexity.tokens, perplexity.low, perplexity.high),
        perplexity.window_nll,
        () if divergence is None else divergence.window_kld,
        0.0 if figures is None else figures.kld_mean,
        0.0 if figures is None else figures.kld_stderr,
        1.0 if figures is None else figures.top1_agreement,
    )
