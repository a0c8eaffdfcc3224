"""`sweep ablate`: measures many recipes of one model on the same text.

It is a plan of ordinary cells: one for the float model, one for each setup of the design space, and for int8 recipes
one that reads the calibration text. Every result is stored under its key, so an interrupted ablation loses only the
recipe that was running.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import presets
from converters.checkpoint import Checkpoint
from converters.errors import InputError
from converters.resolver import Need, find_model
from int8.architectures import require_quantizable
from int8.design_space import INT8, DesignSpace, Setup, around, family_of, load
from int8.quantize_model import require_device
from ptq.design_space import PTQ
from sweep import __version__, devices
from sweep.analysis.ablation import Ablation, RecipeFailure, RecipeMeasurement, ranked
from sweep.artefact import Artefact
from sweep.endings import Ending
from sweep.events import Event
from sweep.execution.local import LocalExecutor, LocalHost
from sweep.execution.scheduler import Scheduler
from sweep.jobs.ablation import RecipeResult, Study
from sweep.jobs.base import content_hash
from sweep.jobs.cell import Cell
from sweep.jobs.input_checks import InputCheckJob
from sweep.jobs.inputs import TextFile
from sweep.jobs.ptq_ablation import SetupText
from sweep.jobs.settings import ComputeResources
from sweep.measure.plain_text import read_text
from sweep.planning.ablation import FLOAT_MODEL, PTQ_LENGTH, AblationCells, make_cells, reads_text, text_of
from sweep.planning.model import ResolvedModel
from sweep.planning.texts import FoundText, calibration_text, text_for
from sweep.record import Perplexity
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace, open_workspace, sharing

FAMILIES = (INT8, PTQ)
RANDOM, CHAT, OWN = "random", "chat", "own"
"""Calibration texts of a design space, next to those of --calibration: random tokens of the vocabulary; the text of
--calibration as conversations; a built-in model's own text."""


@dataclass(frozen=True)
class AblationRequest:
    """The user's options. `space` is a design space's file; None: the one that comes with the program. `base` is the
    recipe or variant of which one setting at a time is changed, by the axes `axes` (empty: by all that it has); None:
    the grids of the design space are measured. `perplexity` is the file of the text, of which at most `windows` windows
    of `window` tokens are measured. `calibration` is a file's path or a name; `samples` samples of `length` tokens of
    it are read. `parse_special` reads special tokens in both texts as such."""

    model: str
    space: Path | None = None
    base: str | None = None
    axes: tuple[str, ...] = ()
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
    """The cells and what they were made from. `calibration` is the name of the calibration text. `unavailable`: setups
    whose calibration text this machine does not have, and why."""

    study: Study
    resources: ComputeResources
    space: DesignSpace
    made: AblationCells
    workspace: Workspace
    calibration: str
    unavailable: Mapping[Setup, str]

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.made.cells

    @property
    def recipes(self) -> Mapping[str, Setup]:
        """The setups by the key of their cell."""
        return self.made.setups

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
        length, most, how = _ABOUT[self.space.family.name]
        samples = f"{study.samples or most} samples of {study.length or length} tokens"
        return {
            "model": study.name,
            "reference": f"the model in {study.dtype}; {how}, other layers in {study.dtype}",
            "text": f"{study.text.name}, {windows}",
            "calibration": f"{self.calibration}, {samples}",
            "device": f"{self.resources.device('torch')}, {self.resources.threads} threads",
            "engine": study.engine,
            "bitsweep": __version__,
        }


_ABOUT = {
    "int8": (256, "up to 1000", "recipes are fake-quantized"),
    "ptq": (PTQ_LENGTH, "up to 128", "weights are quantized, then dequantized"),
}
"""Family -> the tokens of a sample and the number of samples by default, and how its setups are measured."""


def prepare(request: AblationRequest, say: Callable[[str], None]) -> AblationPlan:
    """Plan an ablation. Raises InputError for bad input or a model that cannot be measured, MissingRuntime for a
    missing device."""
    builtin = presets.builtin_models().get(request.model)
    label = _label(request, builtin)
    space = _space(request, label)  # a mistake in it is an error before anything is downloaded
    if request.windows < 2:
        raise InputError("--windows must be at least 2, because standard errors are computed from several windows")
    workspace = open_workspace(request.workspace)
    device = request.device or devices.torch_device()
    require_device(device)
    found = find_model(request.model, Need.CHECKPOINT, say)
    name, path = found.name, found.path
    require_quantizable(path)
    with Checkpoint.open(path, name) as checkpoint:
        model = ResolvedModel(name, path, checkpoint.fingerprint, 0, builtin)
    text = _downloaded(text_for(model, request.perplexity, request.parse_special, workspace.root), workspace, say)
    calibration = calibration_text(request.calibration, builtin, request.parse_special, workspace=workspace.root)
    if any(map(reads_text, space.points)):
        calibration = _downloaded(calibration, workspace, say)
    notes = [found.note for found in (text, calibration) if found.note is not None]
    for line in dict.fromkeys([*notes, *space.left_out]):
        say(line)
    study = Study(
        source=Artefact.of(path),
        model=model.fingerprint,
        name=name,
        dtype=request.dtype,
        text=replace(text.file, identity=_identity(text, text.file.file.under(workspace.root).read_bytes())),
        window=request.window,
        windows=request.windows,
        calibration=_hashed(calibration, workspace),
        folder=f"artefacts/{model.fingerprint[:16]}",
        samples=request.samples,
        length=request.length,
    )
    texts = {label: SetupText(calibration.name, study.calibration)}
    missing: dict[str | None, str] = {}
    for other in dict.fromkeys(text_of(setup) for setup in space.points):
        if other is None or other == label:
            continue
        try:
            texts[other] = _setup_text(other, calibration, builtin, request.parse_special, workspace, say)
        except InputError as error:  # the other texts can be compared without it
            missing[other] = str(error)
            say(f"calibration {other}: left out: {error}")
    resources = ComputeResources(devices.threads(), {"torch": device})
    made = make_cells(study, space, texts, resources)
    unavailable = {setup: missing[text_of(setup)] for setup in space.points if text_of(setup) in missing}
    return AblationPlan(study, resources, space, made, workspace, calibration.name, unavailable)


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
        failed=(
            *(RecipeFailure(plan.recipes[key], row.status, row.error) for key, row in known.items() if row.error),
            *(RecipeFailure(setup, Ending.SKIPPED, why) for setup, why in plan.unavailable.items()),
        ),
        about=plan.about,
    )
    return result, workspace.ablations / f"{plan.name}.html"


def _label(request: AblationRequest, builtin: presets.BuiltinModel | None) -> str:
    """The name of the calibration text of --calibration for setups."""
    if builtin is not None and request.calibration in (None, builtin.name):
        return OWN
    return request.calibration or next(iter(presets.defaults()["calibration_texts"]))


def _space(request: AblationRequest, label: str) -> DesignSpace:
    """The grids of the design space, or the axes around the base."""
    calibration: dict[str, Any] = {"calibration": label}
    if request.samples is not None:
        calibration["samples"] = request.samples
    common = {"ptq": calibration}
    if request.base is None:
        if request.axes:
            raise InputError("--axes: name the recipe or variant whose settings they change with --base")
        return load(request.space or presets.DESIGN_SPACE, FAMILIES, common)
    family = family_of(request.base, FAMILIES, "--base")
    file = request.space or presets.AXES[family.name]
    return around(file, request.base, family, request.axes, common.get(family.name, {}))


def _setup_text(
    name: str,
    chosen: FoundText,
    builtin: presets.BuiltinModel | None,
    parse_special: bool,
    workspace: Workspace,
    say: Callable[[str], None],
) -> SetupText:
    """The calibration text with this name in a design space; `chosen` is that of --calibration. Raises InputError."""
    if name == RANDOM:
        return SetupText("random tokens", None)
    if name == CHAT:
        return SetupText(f"{chosen.name} as conversations", _hashed(chosen, workspace), as_chat=True)
    if name == OWN and builtin is None:
        raise InputError("only built-in models have a text of their own")
    own = builtin.name if name == OWN and builtin else name
    found = calibration_text(own, builtin, parse_special, workspace=workspace.root)
    return SetupText(found.name, _hashed(_downloaded(found, workspace, say), workspace))


def _hashed(text: FoundText, workspace: Workspace) -> TextFile:
    """The text with its content in its identity, if its file is there."""
    file = text.file.file.under(workspace.root)
    return replace(text.file, identity=_identity(text, read_text(file).encode())) if file.is_file() else text.file


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
        found.bits_per_weight,
    )
