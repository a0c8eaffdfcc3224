"""Many int8 recipes on one model, each over the same text: what `sweep ablate` calls.

The model is loaded once, its own distributions and the statistics of its channels are taken once, and from these every
recipe is made (int8.survey). What is measured is kept in the workspace recipe by recipe, by content, so that whatever
ends the work costs the recipe in hand alone.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

import presets
from converters.checkpoint import Checkpoint
from converters.errors import InputError
from converters.resolver import Need, find_model
from int8 import design_space
from int8.architectures import require_quantizable
from int8.build import Text as CalibrationText
from int8.build import calibration_tokens, require_device
from int8.calibrate import calibrate
from int8.model import open_model
from int8.recipe import Recipe
from int8.statistics import Statistics, StatisticsCache
from int8.survey import statistics_for, survey
from sweep import __version__, devices
from sweep.analysis.ablation import Ablation, Measured, name_of, ranked
from sweep.backends.torch import TorchBackend
from sweep.commands.int8 import calibration_text
from sweep.measure.perplexity import Windows, cut_windows
from sweep.measure.reference import Distributions, open_reference
from sweep.measure.text import TextMeasurement, measure_text
from sweep.measure.wikitext import save_text
from sweep.planning.cells import content_hash
from sweep.planning.inputs import Text, read_text, text_for
from sweep.planning.model import Model
from sweep.record import Perplexity
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace, open_workspace, sharing

PROCEDURE = 1  # raised when what is measured changes, so that old results are not taken for new ones

Progress = Callable[[float, str], None]
"""(share of the work that is done, 0 to 1; what is at work)"""


@dataclass(frozen=True)
class Request:
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


def ablate(
    request: Request,
    say: Callable[[str], None],
    progress: Progress,
    tell: Callable[[Recipe, Outcome], None] = lambda *_: None,
) -> tuple[Ablation, Path]:
    """Measure what is not known yet of a design space on a model; gives the result, and where its page belongs.

    `tell` hears of every recipe as soon as it is measured. A recipe that fails costs its own point. Raises InputError
    for bad input and a model that cannot be measured, MissingRuntime for a missing device.
    """
    transformers_logging.disable_progress_bar()  # its bars would cross ours
    transformers_logging.set_verbosity_error()
    space = design_space.load(request.space or presets.DESIGN_SPACE)
    if request.windows < 2:
        raise InputError("--windows must be at least 2: errors are of differences between windows")
    workspace = open_workspace(request.workspace)
    asked = _prepare(request, workspace, say)
    recipes = {asked.key(recipe): recipe for recipe in space.points}
    with Store(workspace.database) as store, sharing(asked.artefacts):
        known = {key: found for key, found in store.outcomes(recipes).items() if found.status == "ok"}
        reference = store.outcomes([asked.key(None)]).get(asked.key(None))
        pending = {key: recipe for key, recipe in recipes.items() if key not in known}
        if known and pending:
            say(f"{len(known)} of {len(recipes)} recipes are known already")
        if pending or reference is None:
            reads = any(recipe.needs_text for recipe in pending.values())
            work = _Work(asked, len(pending) + 1 + reads, progress)
            if reads:
                work.survey()
            reference = work.reference(store)
            for key, recipe in pending.items():
                known[key] = work.measure(recipe)
                store.put(key, known[key])
                tell(recipe, known[key])
    measured = {recipes[key]: _measured(found.result) for key, found in known.items() if found.result is not None}
    of_float = _measured(reference.result or {})
    result = Ablation(
        model=asked.model.name,
        space=space,
        reference=of_float.perplexity,
        points=ranked(measured, of_float.window_nll),
        failed=tuple((recipes[key], found.error) for key, found in known.items() if found.error is not None),
        about=asked.about,
    )
    name = content_hash([asked.base, sorted(recipes)])[:8]
    return result, workspace.ablations / f"{asked.model.name}-{name}.html"


@dataclass(frozen=True)
class _Asked:
    """A request with everything found: the model, the texts, the device."""

    request: Request
    model: Model
    text: Text
    calibration: CalibrationText
    device: str
    artefacts: Path

    @cached_property
    def base(self) -> dict[str, Any]:
        """All that a result depends on beside the recipe."""
        request = self.request
        return {
            "procedure": PROCEDURE,
            "model": self.model.fingerprint,
            "dtype": request.dtype,
            "engine": f"torch {version('torch')}, transformers {version('transformers')}",
            "device": self.device,
            "text": hashlib.sha256(self.text.file.read_bytes()).hexdigest(),
            "window": request.window,
            "windows": request.windows,
        }

    @cached_property
    def _calibration_base(self) -> list[Any]:
        text = hashlib.sha256(self.calibration.read().encode()).hexdigest()
        return [text, self.request.samples, self.request.length]

    def key(self, recipe: Recipe | None) -> str:
        """Of a recipe's result; of the float model's for None."""
        if recipe is None:
            return content_hash(["ablation", self.base, None])
        read = self._calibration_base if recipe.needs_text else None
        return content_hash(["ablation", self.base, recipe.to_json(), read])

    @property
    def logprobs(self) -> Path:
        """The float model's distributions over the text."""
        return self.artefacts / f"reference-{self.key(None)[:16]}.logprobs"

    @property
    def about(self) -> dict[str, object]:
        """How it is measured, for the report: names and values to print in this order."""
        request = self.request
        windows = f"{request.windows} windows of {request.window} tokens at most, second half scored"
        samples = f"{request.samples or 'up to 1000'} samples of {request.length or 256} tokens"
        return {
            "model": self.model.name,
            "reference": f"the model in {request.dtype}; recipes are fake-quantized, all else in {request.dtype}",
            "text": f"{self.text.name}, {windows}",
            "calibration": f"{self.calibration.name}, {samples}",
            "device": f"{self.device}, {devices.threads()} threads",
            "engine": self.base["engine"],
            "bitsweep": __version__,
        }


def _prepare(request: Request, workspace: Workspace, say: Callable[[str], None]) -> _Asked:
    device = request.device or devices.torch_device()
    require_device(device)
    found = find_model(request.model, Need.CHECKPOINT, say)
    name, path = found.name, found.path
    require_quantizable(path)
    builtin = presets.builtin_models().get(request.model)
    with Checkpoint.open(path, name) as checkpoint:
        model = Model(name, path, checkpoint.fingerprint, 0, builtin)
    text = text_for(model, request.perplexity, workspace.texts)
    if text.dataset is not None and not text.file.is_file():
        say(f"fetching {text.name}")
        save_text(*text.dataset, text.file)
    calibration = calibration_text(request.calibration, builtin, workspace)
    return _Asked(request, model, text, calibration, device, workspace.artefacts(model.fingerprint))


class _Work:
    """The model, loaded, and what is taken of it once. `stages` are the recipes to be measured, the float model and the
    survey, each about as long as the others."""

    def __init__(self, asked: _Asked, stages: int, progress: Progress) -> None:
        self._asked, self._progress = asked, progress
        self._stages, self._stage = stages, 0
        self._tokens = torch.empty(0, 1, dtype=torch.long)
        self._seen = Statistics()
        torch.set_num_threads(devices.threads())
        self._model: PreTrainedModel = open_model(asked.model.path, asked.request.dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(
            asked.model.path, trust_remote_code=False, local_files_only=True
        )
        self._windows: Windows = cut_windows(
            TorchBackend(self._model, self._tokenizer),
            read_text(asked.text.file),
            n_ctx=asked.request.window,
            max_windows=asked.request.windows,
        )

    def survey(self) -> None:
        """Let the calibration text show every channel, where that is not known. Raises InputError."""
        asked = self._asked
        self._tokens = calibration_tokens(
            asked.model.path, asked.calibration, asked.request.samples, asked.request.length
        )
        cache = StatisticsCache(asked.artefacts / asked.request.dtype, asked.model.fingerprint, self._tokens)
        seen = cache.load_channels()
        if seen is None:
            what = "reading the calibration text"
            seen = survey(
                self._model,
                self._tokens,
                device=asked.device,
                progress=lambda done, total: self._tell(done / total, what),
            )
            cache.save_channels(seen)
        self._seen = seen
        self._stage += 1

    def reference(self, store: Store) -> Outcome:
        """The float model over the text: known, or measured and kept, with its distributions in a file."""
        key, file = self._asked.key(None), self._asked.logprobs
        known = store.outcomes([key]).get(key)
        if known is not None and file.is_file():
            self._stage += 1
            return known
        began = time.monotonic()
        found = self._measure_text(copy.deepcopy(self._model), "the float model", write_reference=file)
        outcome = Outcome("ok", _to_json(found), None, time.monotonic() - began)
        store.put(key, outcome)
        self._stage += 1
        return outcome

    def measure(self, recipe: Recipe) -> Outcome:
        """A recipe's fake-quant model over the text, or why there is no such thing."""
        began = time.monotonic()
        try:
            model = copy.deepcopy(self._model)
            known = statistics_for(recipe, model, self._seen) if recipe.needs_text else Statistics()
            calibrate(model, self._tokens, recipe, device=self._asked.device, known=known)
            found = self._measure_text(model, name_of(recipe), reference=self._distributions)
        except InputError as error:
            return Outcome("failed", None, str(error), time.monotonic() - began)
        except torch.OutOfMemoryError:
            reason = f"{self._asked.device} has no memory for the model; take --device cpu, or a smaller --window"
            return Outcome("failed", None, reason, time.monotonic() - began)
        finally:
            self._stage += 1
        return Outcome("ok", _to_json(found), None, time.monotonic() - began)

    def _measure_text(self, model: PreTrainedModel, name: str, **options: Any) -> TextMeasurement:
        backend = TorchBackend(model.to(self._asked.device), self._tokenizer)
        return measure_text(
            backend,
            self._windows,
            model=self._asked.model.name,
            threads=devices.threads(),
            progress=lambda done, total: self._tell(done / total, name),
            **options,
        )

    @cached_property
    def _distributions(self) -> Distributions:
        return open_reference(self._asked.logprobs)

    def _tell(self, share: float, what: str) -> None:
        self._progress((self._stage + share) / self._stages, what)


def _to_json(found: TextMeasurement) -> dict[str, Any]:
    return {
        "perplexity": asdict(found.perplexity),
        "divergence": None if found.divergence is None else asdict(found.divergence),
    }


def _measured(result: Mapping[str, Any]) -> Measured:
    """Of a stored result; the float model has no divergence from itself."""
    perplexity = dict(result["perplexity"])
    nll = tuple(perplexity.pop("window_nll"))
    divergence = result["divergence"] or {"window_kld": (), "figures": {}}
    figures = divergence["figures"]
    return Measured(
        Perplexity(**perplexity),
        nll,
        tuple(divergence["window_kld"]),
        figures.get("kld_mean", 0.0),
        figures.get("kld_stderr", 0.0),
        figures.get("top1_agreement", 1.0),
    )
