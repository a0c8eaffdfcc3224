"""The jobs of an ablation: measure many int8 recipes on a text, by fake-quantizing a model that stays loaded.

Each worker loads the model once. The distributions of the float model and the statistics of its channels are computed
once, and every recipe is applied from these statistics (int8.channel_statistics).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from converters.errors import InputError
from int8.recipe import Recipe
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, StoredJob, content_hash
from sweep.jobs.inputs import TextFile
from sweep.jobs.settings import ComputeResources
from sweep.jobs.text import text_summary
from sweep.measure.text_results import DivergenceResult, PerplexityResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from int8.samples import Samples
    from int8.statistics import Statistics, StatisticsCache
    from sweep.backends.torch import TorchBackend
    from sweep.measure.perplexity import Windows

PROCEDURE = 1  # increase it when the jobs measure something else: old results are then not used any more


@dataclass(frozen=True)
class Study:
    """What all recipes of an ablation have in common.

    `source` is the checkpoint, `model` a hash of its content, `dtype` the dtype of the float model. At most `windows`
    windows of `window` tokens of `text` are measured. `samples` samples of `length` tokens of `calibration` are read;
    None: the defaults of int8.quantize_model. `folder` is where files are written, relative to the workspace.
    """

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

    def identity(self, resources: ComputeResources) -> dict[str, Any]:
        """Everything that a result depends on, except the recipe."""
        return {
            "procedure": PROCEDURE,
            "model": self.model,
            "dtype": self.dtype,
            "engine": self.engine,
            "device": resources.device("torch"),
            "text": self.text.identity,
            "window": self.window,
            "windows": self.windows,
        }

    @property
    def calibration_identity(self) -> list[Any]:
        """What statistics of the calibration text depend on, in addition to `identity`."""
        return [self.calibration.identity, self.samples, self.length]


@dataclass(frozen=True)
class SurveyResult(Result):
    """The number of samples of the calibration text that were read."""

    samples: int


@dataclass(frozen=True)
class SurveyJob(StoredJob[SurveyResult]):
    """Measure the statistics of every channel of the float model on the calibration text."""

    kind = "survey"
    result_type = SurveyResult
    auxiliary = True

    study: Study

    def identity(self, resources: ComputeResources) -> Any:
        return ["survey", self.study.identity(resources), self.study.calibration_identity]

    @property
    def essential(self) -> bool:
        return True

    def run(self, site: Site) -> SurveyResult:
        loaded = LoadedStudy.of(self.study, site)
        loaded.statistics(site)
        return SurveyResult(len(loaded.samples))


@dataclass(frozen=True)
class RecipeResult(Result):
    """`bits_per_weight` of the quantized checkpoint, if one was made."""

    perplexity: PerplexityResult
    divergence: DivergenceResult | None = None
    bits_per_weight: float | None = None

    @property
    def summary(self) -> str:
        return text_summary(self.perplexity, self.divergence)


@dataclass(frozen=True)
class RecipeJob(StoredJob[RecipeResult]):
    """Measure the text with a recipe and compare it with the float model's `distributions`.

    Without a recipe the job measures the float model itself and writes `distributions`."""

    kind = "ablation"
    result_type = RecipeResult

    study: Study
    distributions: Artefact
    recipe: Recipe | None = None

    def identity(self, resources: ComputeResources) -> Any:
        if self.recipe is None:
            return ["ablation", self.study.identity(resources), None]
        read = self.study.calibration_identity if self.recipe.needs_text else None
        return ["ablation", self.study.identity(resources), self.recipe.to_json(), read]

    @property
    def output(self) -> Artefact | None:
        return self.distributions if self.recipe is None else None

    @property
    def essential(self) -> bool:
        return self.recipe is None

    def run(self, site: Site) -> RecipeResult:
        loaded = LoadedStudy.of(self.study, site)
        with enough_memory(site):
            return self._measure(loaded, site)

    def _measure(self, loaded: LoadedStudy, site: Site) -> RecipeResult:
        import torch

        from int8.calibrate import calibrate
        from int8.channel_statistics import statistics_for
        from int8.statistics import Statistics
        from sweep.measure.reference import open_reference
        from sweep.measure.text_measurement import measure_text

        model, device = copy.deepcopy(loaded.model), site.resources.device("torch")
        file = site.path(self.distributions)
        options: dict[str, Any] = {"write_reference": file, "model": self.study.name}
        if self.recipe is not None:
            known = Statistics()
            samples: Samples = torch.empty(0, 1, dtype=torch.long)
            if self.recipe.needs_text:
                known, samples = statistics_for(self.recipe, model, loaded.statistics(site)), loaded.samples
            calibrate(model, samples, self.recipe, device=device, known=known)
            options = {"reference": open_reference(file)}
        measured = measure_text(
            loaded.backend(model, device),
            loaded.windows,
            threads=site.resources.threads,
            progress=site.report_progress,
            **options,
        )
        return RecipeResult(measured.perplexity, measured.divergence)


@contextmanager
def enough_memory(site: Site) -> Iterator[None]:
    """Raise InputError if the device has too little memory for what is done inside the block."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        device = site.resources.device("torch")
        reason = f"{device}: out of memory for this model; choose --device cpu or a smaller --window"
        raise InputError(reason) from error


class LoadedStudy:
    """The loaded model and what is computed once from it. It stays in the worker between jobs."""

    def __init__(self, study: Study, site: Site) -> None:
        import torch
        from transformers.utils import logging as transformers_logging

        from int8.model import open_model
        from int8.tokenizer import load_tokenizer
        from sweep.jobs.calibration import calibration_source
        from sweep.measure.perplexity import cut_windows
        from sweep.measure.texts import model_text

        transformers_logging.disable_progress_bar()
        torch.set_num_threads(site.resources.threads)
        self.study = study
        source = site.path(study.source)
        self.model: PreTrainedModel = open_model(source, study.dtype)
        self._tokenizer = load_tokenizer(source)
        backend = self.backend(self.model, "cpu")
        self.windows: Windows = cut_windows(
            backend,
            model_text(site.path(study.text.file), study.text.form, backend),
            n_ctx=study.window,
            max_windows=study.windows,
            parse_special=study.text.form.parses_special,
        )
        text = calibration_source(
            study.calibration.name, study.calibration.form, lambda: site.path(study.calibration.file)
        )
        self._read_samples = lambda: text.of(source, study.samples, study.length)
        self._samples: Samples | None = None
        self._statistics: Statistics | None = None

    @classmethod
    def of(cls, study: Study, site: Site) -> LoadedStudy:
        return site.cached(
            "ablation",
            content_hash([study.identity(site.resources), study.calibration_identity]),
            lambda: cls(study, site),
        )

    @property
    def samples(self) -> Samples:
        """The samples of the calibration text. Raises InputError if the text is too short."""
        if self._samples is None:
            self._samples = self._read_samples()
        return self._samples

    def statistics(self, site: Site) -> Statistics:
        """The statistics of every channel: read from the cache folder, or measured now and written there."""
        from int8.channel_statistics import measure_channels
        from int8.statistics import StatisticsCache

        if self._statistics is None:
            folder = site.root / self.study.folder / self.study.dtype
            cache: StatisticsCache = StatisticsCache(folder, self.study.model, self.samples)
            seen = cache.load_channels()
            if seen is None:
                device = site.resources.device("torch")
                seen = measure_channels(self.model, self.samples, device=device, progress=site.report_progress)
                cache.save_channels(seen)
            self._statistics = seen
        return self._statistics

    def backend(self, model: PreTrainedModel, device: str) -> TorchBackend:
        from sweep.backends.torch import TorchBackend

        return TorchBackend(model.to(device), self._tokenizer)
