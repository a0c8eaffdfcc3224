"""`sweep int8`: makes an int8 checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

import presets
from converters.checkpoint import Checkpoint
from converters.errors import InputError
from converters.resolver import Need, find_model
from int8.architectures import is_speech
from int8.atomic_directory import require_free
from int8.checkpoint import CalibrationRecord, save
from int8.expert_tokens import FEW_TOKENS
from int8.layer_inputs import Progress
from int8.quantize_model import CalibrationSource, quantize_model
from int8.recipe import Recipe, recipe
from speech.transcripts import read_speech_set
from sweep.commands.calibration import available_text
from sweep.jobs.speech_calibration import SpeechCalibration
from sweep.methods.checkpoint import CalibrationFigures
from sweep.planning.speech import MOST_CALIBRATION
from sweep.planning.texts import calibration_text, text_only_warning
from sweep.workspace import Workspace, open_workspace, sharing


@dataclass(frozen=True)
class Int8Request:
    """The user's options. `calibration` and `recipe` are a file's path or a name; `samples` samples of `length` tokens
    of the calibration text are read. `parse_special` reads special tokens in it as such. A speech model is calibrated
    with a directory of recordings in `language`, of which `samples` windows are read."""

    model: str
    recipe: str
    out: Path
    calibration: str | None = None
    samples: int | None = None
    length: int | None = None
    device: str = "cpu"
    workspace: Path | None = None
    parse_special: bool = False
    language: str = "en"


@dataclass(frozen=True)
class WrittenCheckpoint:
    """The checkpoint that was written: `bytes` bytes of tensors in the directory `path`."""

    name: str
    path: Path
    recipe: Recipe
    calibration: CalibrationRecord
    bytes: int

    def to_json(self) -> dict[str, Any]:
        calibration = self.calibration
        return {
            "model": self.name,
            "path": str(self.path),
            "bytes": self.bytes,
            "recipe": self.recipe.to_json(),
            "calibration": {"text": calibration.text, "samples": calibration.samples, "length": calibration.length},
            "expert_tokens": calibration.expert_tokens or {},
        }

    @property
    def experts(self) -> list[tuple[str, int, int, int, int]]:
        """See CalibrationFigures.experts."""
        return CalibrationFigures(None, expert_tokens=self.calibration.tokens_by_layer()).experts(FEW_TOKENS)


def quantize(request: Int8Request, say: Callable[[str], None], progress: Progress) -> WrittenCheckpoint:
    """Calibrate, quantize and write. Raises InputError for any bad input, MissingRuntime for a missing device."""
    transformers_logging.disable_progress_bar()  # its progress bars would mix with ours
    transformers_logging.set_verbosity_error()
    chosen = recipe(request.recipe)
    require_free(request.out)
    workspace = open_workspace(request.workspace)
    found = find_model(request.model, Need.CHECKPOINT, say)
    name, path = found.name, found.path
    with Checkpoint.open(path, name) as checkpoint:
        cache = workspace.artefacts(checkpoint.fingerprint)
    text = (
        _recordings(request, chosen, say)
        if is_speech(path)
        else _text(request, workspace, path if chosen.needs_text else None, say)
    )
    with sharing(cache):  # otherwise a sweep of this model that ends now would remove files that are being written
        model, calibration = quantize_model(
            path,
            chosen,
            text,
            count=request.samples,
            length=request.length,
            device=request.device,
            cache=cache,
            progress=progress,
        )
    size = save(model, chosen, calibration, path, request.out)
    return WrittenCheckpoint(name, request.out, chosen, calibration, size)


def _recordings(request: Int8Request, chosen: Recipe, say: Callable[[str], None]) -> CalibrationSource | None:
    """The recordings that a speech model is calibrated with; None if the recipe needs none. Raises InputError."""
    if not chosen.needs_text:
        return None
    directory = None if request.calibration is None else Path(request.calibration).expanduser()
    if directory is None or not directory.is_dir():
        raise InputError(
            f"recipe {chosen.name}: a speech model is calibrated with speech; give --calibration DIR, recordings with a"
            " table of their transcripts (see docs/speech.md)"
        )
    problems = read_speech_set(directory).problem_words
    if problems is not None:
        say(problems)
    count = MOST_CALIBRATION if request.samples is None else None
    return SpeechCalibration(directory.name, directory.resolve(), request.language, count=count)


def _text(
    request: Int8Request, workspace: Workspace, model: Path | None, say: Callable[[str], None]
) -> CalibrationSource:
    """The calibration text, which is downloaded when it is read; `model` is what will read it. Raises InputError."""
    builtin = presets.builtin_models().get(request.model)
    text = calibration_text(request.calibration, builtin, request.parse_special, workspace=workspace.root)
    for note in () if model is None else (text.note, text_only_warning(text, model)):
        if note is not None:
            say(note)
    return available_text(text, workspace)
