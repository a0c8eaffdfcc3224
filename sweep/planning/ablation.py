"""The cells of an ablation: the float model, then each setup of the design space, by jobs of the setups' family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from int8.design_space import DesignSpace, Setup
from int8.recipe import Recipe
from ptq.design_space import PtqSetup
from sweep.analysis.setup_words import name_of
from sweep.artefact import Artefact
from sweep.jobs.ablation import RecipeJob, RecipeResult, Study, SurveyJob
from sweep.jobs.base import StoredJob, content_hash
from sweep.jobs.cell import Cell
from sweep.jobs.ptq_ablation import PtqSetupJob, SetupText
from sweep.jobs.settings import ComputeResources

FLOAT_MODEL = "the float model"
PTQ_LENGTH = 256  # tokens of a sample by default, so that a text of ordinary length has 512 samples

Texts = Mapping[str, SetupText]
"""The calibration texts by the names that setups have for them."""
SetupJob = StoredJob[RecipeResult]


@dataclass(frozen=True)
class AblationCells:
    """`setups`: the setups by the keys of their cells."""

    cells: tuple[Cell, ...]
    setups: Mapping[str, Setup]


def make_cells(study: Study, space: DesignSpace, texts: Texts, resources: ComputeResources) -> AblationCells:
    """All cells belong to one variant, so one worker runs them and keeps the model loaded.

    Setups whose calibration text is not among `texts` have no cell."""
    float_key = content_hash(RecipeJob(study, Artefact("")).identity(resources))
    distributions = Artefact(f"{study.folder}/reference-{float_key[:16]}.logprobs")
    reference = RecipeJob(study, distributions)
    cells = [Cell(reference.key(resources), study.name, FLOAT_MODEL, reference)]
    survey = SurveyJob(study)
    setups: dict[str, Setup] = {}
    surveyed = False
    for setup in space.points:
        job, read = _JOBS[type(setup)](setup, study, distributions, texts)
        if job is None:
            continue
        surveyed |= read
        key = job.key(resources)
        needs = (reference.key(resources), *([survey.key(resources)] if read else []))
        cells.append(Cell(key, study.name, name_of(setup), job, needs))
        setups[key] = setup
    if surveyed:
        cells.insert(0, Cell(survey.key(resources), study.name, "reading the calibration text", survey))
    return AblationCells(tuple(cells), setups)


def text_of(setup: Setup) -> str | None:
    """The name of the calibration text that a setup has for itself; None if it has none."""
    return setup.calibration if isinstance(setup, PtqSetup) else None


def reads_text(setup: Setup) -> bool:
    """Whether a setup depends on a calibration text."""
    recipe: Any = setup.recipe if isinstance(setup, PtqSetup) else setup
    return bool(recipe.needs_text)


def _int8(recipe: Recipe, study: Study, distributions: Artefact, _: Texts) -> tuple[SetupJob | None, bool]:
    """The job, and whether it needs the statistics of the survey."""
    return RecipeJob(study, distributions, recipe), recipe.needs_text


def _ptq(setup: PtqSetup, study: Study, distributions: Artefact, texts: Texts) -> tuple[SetupJob | None, bool]:
    if setup.calibration is None:
        return PtqSetupJob(study, distributions, setup.recipe), False
    if setup.calibration not in texts:
        return None, False
    length = study.length or PTQ_LENGTH
    job = PtqSetupJob(study, distributions, setup.recipe, texts[setup.calibration], setup.samples, length)
    return job, False


_JOBS: Mapping[type, Callable[[Any, Study, Artefact, Texts], tuple[SetupJob | None, bool]]] = {
    Recipe: _int8,
    PtqSetup: _ptq,
}
