"""An int8 recipe measured over a text by fake-quantizing the loaded model, for the many recipes of a design space.

The model is loaded once a worker, its own distributions and the statistics of its channels are taken once, and from
these every recipe is made (int8.survey).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from int8.recipe import Recipe
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob, content_hash
from sweep.jobs.given import TextFile
from sweep.jobs.settings import Where
from sweep.jobs.text import text_summary
from sweep.measure.text_results import DivergenceResult, PerplexityResult

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from int8.statistics import Statistics, StatisticsCache
    from sweep.backends.torch import TorchBackend
    from sweep.measure.perplexity import Windows

PROCEDURE = 1  # raised when what is measured changes


@dataclass(frozen=True)
class Study:
    """What all recipes of an ablation have in common: the checkpoint `source` whose content is `model`, computed in
    `dtype`; the text, of which `windows` windows of `window` tokens are read; the calibration text and how it is cut.
    `folder` takes what is made."""

    source: Artefact
    model: str
    name: str
    dtype: str
    text: TextFile
    window: int
    windows: int
    calibration: TextFile
    folder: str
    samples: int | None = None
    length: int | None = None

    @property
    def engine(self) -> str:
        return f"torch {version('torch')}, transformers {version('transformers')}"

    def identity(self, where: Where) -> dict[str, Any]:
        """All that a result depends on beside the recipe."""
        return {
            "procedure": PROCEDURE,
            "model": self.model,
            "dtype": self.dtype,
            "engine": self.engine,
            "device": where.device("torch"),
            "text": self.text.identity,
            "window": self.window,
            "windows": self.windows,
        }

    @property
    def reading(self) -> list[Any]:
        """What statistics of the calibration text depend on."""
        return [self.calibration.identity, self.samples, self.length]


@dataclass(frozen=True)
class SurveyResult(Result):
    """How many sequences of the calibration text were read."""

    samples: int


@dataclass(frozen=True)
class SurveyJob(StoredJob[SurveyResult]):
    """Let the calibration text show the range of every channel of the float model."""

    kind = "survey"
    found = SurveyResult
    auxiliary = True

    study: Study

    def identity(self, where: Where) -> Any:
        return ["survey", self.study.identity(where), self.study.reading]

    @property
    def essential(self) -> bool:
        return True

    def run(self, site: Site) -> SurveyResult:
        work = _Work.of(self.study, site)
        work.statistics(site)
        return SurveyResult(len(work.tokens))


@dataclass(frozen=True)
class RecipeResult(Result):
    perplexity: PerplexityResult
    divergence: DivergenceResult | None = None

    @property
    def summary(self) -> str:
        return text_summary(self.perplexity, self.divergence)


@dataclass(frozen=True)
class RecipeJob(StoredJob[RecipeResult]):
    """The text under a recipe, against the float model; without a recipe the float model itself, whose distributions
    are written to `distributions`. Otherwise they are read from there."""

    kind = "ablation"
    found = RecipeResult

    study: Study
    distributions: Artefact
    recipe: Recipe | None = None

    def identity(self, where: Where) -> Any:
        if self.recipe is None:
            return ["ablation", self.study.identity(where), None]
        read = self.study.reading if self.recipe.needs_text else None
        return ["ablation", self.study.identity(where), self.recipe.to_json(), read]

    @property
    def makes(self) -> Artefact | None:
        return self.distributions if self.recipe is None else None

    @property
    def essential(self) -> bool:
        return self.recipe is None

    def run(self, site: Site) -> RecipeResult:
        import torch

        from converters.errors import InputError

        work = _Work.of(self.study, site)
        try:
            return self._measured(work, site)
        except torch.OutOfMemoryError as error:
            device = site.where.device("torch")
            reason = f"{device} has no memory for the model; take --device cpu, or a smaller --window"
            raise InputError(reason) from error

    def _measured(self, work: _Work, site: Site) -> RecipeResult:
        import torch

        from int8.calibrate import calibrate
        from int8.statistics import Statistics
        from int8.survey import statistics_for
        from sweep.measure.reference import open_reference
        from sweep.measure.text_measurement import measure_text

        model, device = copy.deepcopy(work.model), site.where.device("torch")
        file = site.path(self.distributions)
        options: dict[str, Any] = {"write_reference": file, "model": self.study.name}
        if self.recipe is not None:
            known, tokens = Statistics(), torch.empty(0, 1, dtype=torch.long)
            if self.recipe.needs_text:
                known, tokens = statistics_for(self.recipe, model, work.statistics(site)), work.tokens
            calibrate(model, tokens, self.recipe, device=device, known=known)
            options = {"reference": open_reference(file)}
        found = measure_text(
            work.backend(model, device), work.windows, threads=site.where.threads, progress=site.tell, **options
        )
        return RecipeResult(found.perplexity, found.divergence)


class _Work:
    """The model, loaded, and what is taken of it once; kept in the worker between jobs."""

    def __init__(self, study: Study, site: Site) -> None:
        import torch
        from transformers import AutoTokenizer
        from transformers.utils import logging as transformers_logging

        from int8.build import CalibrationText, calibration_tokens
        from int8.model import open_model
        from sweep.measure.perplexity import cut_windows
        from sweep.measure.plain_text import read_text

        transformers_logging.disable_progress_bar()
        torch.set_num_threads(site.where.threads)
        self.study = study
        source = site.path(study.source)
        self.model: PreTrainedModel = open_model(source, study.dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        self.windows: Windows = cut_windows(
            self.backend(self.model, "cpu"),
            read_text(site.path(study.text.file)),
            n_ctx=study.window,
            max_windows=study.windows,
        )
        self._read_tokens = lambda: calibration_tokens(
            source,
            CalibrationText(study.calibration.name, lambda: read_text(site.path(study.calibration.file))),
            study.samples,
            study.length,
        )
        self._tokens: torch.Tensor | None = None
        self._statistics: Statistics | None = None

    @classmethod
    def of(cls, study: Study, site: Site) -> _Work:
        return site.keep(
            "ablation", content_hash([study.identity(site.where), study.reading]), lambda: cls(study, site)
        )

    @property
    def tokens(self) -> torch.Tensor:
        """The calibration text, int64 [samples, length]. Raises InputError where it is too short."""
        if self._tokens is None:
            self._tokens = self._read_tokens()
        return self._tokens

    def statistics(self, site: Site) -> Statistics:
        """Of every channel: known, or taken now and kept in a file."""
        from int8.statistics import StatisticsCache
        from int8.survey import survey

        if self._statistics is None:
            folder = site.root / self.study.folder / self.study.dtype
            cache: StatisticsCache = StatisticsCache(folder, self.study.model, self.tokens)
            seen = cache.load_channels()
            if seen is None:
                device = site.where.device("torch")
                seen = survey(self.model, self.tokens, device=device, progress=site.tell)
                cache.save_channels(seen)
            self._statistics = seen
        return self._statistics

    def backend(self, model: PreTrainedModel, device: str) -> TorchBackend:
        from sweep.backends.torch import TorchBackend

        return TorchBackend(model.to(device), self._tokenizer)
