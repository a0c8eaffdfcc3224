"""The job of an ablation that quantizes a model by a recipe of ptq.recipe, measures a text with it, and removes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.recipe import PtqRecipe
from sweep.artefact import Artefact
from sweep.jobs.ablation import LoadedStudy, RecipeResult, Study, enough_memory
from sweep.jobs.base import Site, StoredJob, content_hash
from sweep.jobs.inputs import TextFile
from sweep.jobs.ptq_checkpoint import PtqCheckpointJob
from sweep.jobs.settings import ComputeResources

if TYPE_CHECKING:
    from int8.quantize_model import CalibrationSource

PROCEDURE = 1  # increase it when the job measures something else: old results are then not used any more
QUANTIZING = 0.7  # the share of the job's time that quantizing takes, about


@dataclass(frozen=True)
class SetupText:
    """A calibration text: `file`, its paragraphs as conversations if `as_chat`; without a file, random tokens."""

    name: str
    file: TextFile | None
    as_chat: bool = False

    @property
    def identity(self) -> list[Any]:
        return [None if self.file is None else self.file.identity, self.as_chat]

    def source(self, path: Callable[[Artefact], Path]) -> CalibrationSource:
        from int8.quantize_model import RandomTokens
        from sweep.jobs.calibration import calibration_source, chat_source

        file = self.file
        if file is None:
            return RandomTokens()
        return (chat_source if self.as_chat else calibration_source)(self.name, file.form, lambda: path(file.file))


@dataclass(frozen=True)
class PtqSetupJob(StoredJob[RecipeResult]):
    """Quantize the model by a recipe and compare it with the float model's `distributions`.

    `text` is None for recipes that read none. `samples` of `length` tokens of it are read; None: the number that
    ptq.quantize takes by default."""

    kind = "ptq_ablation"
    result_type = RecipeResult

    study: Study
    distributions: Artefact
    recipe: PtqRecipe
    text: SetupText | None = None
    samples: int | None = None
    length: int | None = None

    def identity(self, resources: ComputeResources) -> Any:
        read = None if self.text is None else [*self.text.identity, self.samples, self.length]
        recipe = {key: value for key, value in self.recipe.to_json().items() if key != "name"}
        procedures = [PROCEDURE, PtqCheckpointJob.procedure]
        return ["ptq_ablation", procedures, self.study.identity(resources), recipe, read]

    def run(self, site: Site) -> RecipeResult:
        loaded = LoadedStudy.of(self.study, site)
        made = site.root / self.study.folder / f"ablation-{content_hash(self.identity(site.resources))[:16]}.ptq"
        try:
            with enough_memory(site):
                return self._measure(loaded, made, site)
        finally:  # an interrupted one has another name, so that it is resumed
            shutil.rmtree(made, ignore_errors=True)

    def _measure(self, loaded: LoadedStudy, made: Path, site: Site) -> RecipeResult:
        from ptq.checkpoint import is_ptq, load, read_summary
        from ptq.quantize import quantize
        from sweep.measure.reference import open_reference
        from sweep.measure.text_measurement import measure_text

        device = site.resources.device("torch")
        if not is_ptq(made):
            quantize(
                site.path(self.study.source),
                self.recipe,
                None if self.text is None else self.text.source(site.path),
                made,
                count=self.samples,
                length=self.length,
                device=device,
                dtype=self.study.dtype,
                progress=lambda done, total: site.progress(round(1000 * QUANTIZING * done / total), 1000, ""),
            )
        measured = measure_text(
            loaded.backend(load(made)[0], device),
            loaded.windows,
            threads=site.resources.threads,
            progress=lambda done, total: site.progress(
                round(1000 * (QUANTIZING + (1 - QUANTIZING) * done / total)), 1000, ""
            ),
            reference=open_reference(site.path(self.distributions)),
        )
        return RecipeResult(measured.perplexity, measured.divergence, read_summary(made).bits_per_weight)
