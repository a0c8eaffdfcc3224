"""From a checkpoint directory to its quantized model: load, calibrate with a text, fold, fake-quantize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from converters.checkpoint import Checkpoint
from converters.errors import InputError, MissingRuntime
from int8.activations import Progress
from int8.architectures import require_quantizable
from int8.calibrate import calibrate
from int8.checkpoint import CalibrationRecord
from int8.model import open_model
from int8.recipe import Recipe
from int8.statistics import Statistics, StatisticsCache
from int8.text import samples


@dataclass(frozen=True)
class CalibrationText:
    """A calibration text; `name` is for people, `read` gives its content where it is needed."""

    name: str
    read: Callable[[], str]


def build(
    path: Path,
    recipe: Recipe,
    text: CalibrationText | None,
    *,
    count: int | None = None,
    length: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[PreTrainedModel, CalibrationRecord]:
    """The checkpoint `path` as a fake-quant model on the CPU, and what it was calibrated with.

    `count` samples of `length` tokens are cut of the text (see int8.text); layers are calibrated on `device`;
    statistics are kept in `cache`. A recipe that needs no text reads none; of others `text` must not be None. Raises
    InputError for bad input, and MissingRuntime for a device that is not there.
    """
    require_device(device)
    require_quantizable(path)
    tokens, kept = torch.empty(0, 1, dtype=torch.long), None
    if recipe.needs_text:
        assert text is not None
        tokens = calibration_tokens(path, text, count, length)
        kept = _cache(path, cache, tokens)
    known = kept.load(recipe) if kept else Statistics()
    model = open_model(path, dtype)
    statistics = calibrate(model, tokens, recipe, device=device, known=known, progress=progress)
    if kept:
        kept.save(recipe, statistics)
    if text is None or not len(tokens):
        return model, CalibrationRecord(None)
    return model, CalibrationRecord(text.name, len(tokens), tokens.shape[1], statistics.expert_tokens)


def require_device(device: str) -> None:
    """Raises InputError for what is no device of torch, MissingRuntime for one that this machine lacks."""
    try:
        torch.empty(0, device=device)
    except RuntimeError as error:
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda", "mps", "xpu"):
            raise InputError(f"{device!r} is no device; give cpu, cuda or cuda:1") from error
        raise MissingRuntime(f"{device}: torch finds no such device here ({str(error).splitlines()[0]})") from error
    except AssertionError as error:  # what torch says without a build for it
        raise MissingRuntime(f"{device}: {error}") from error


def calibration_tokens(path: Path, text: CalibrationText, count: int | None, length: int | None) -> Tensor:
    """Samples [count, length] of the text as the checkpoint's tokenizer cuts it. Raises InputError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:  # whatever transformers says of a bad directory
        raise InputError(f"{path}: has no tokenizer to calibrate with: {' '.join(str(error).split())[:200]}") from error
    return samples(tokenizer, text.read(), text.name, count, length)


def _cache(path: Path, directory: Path | None, tokens: Tensor) -> StatisticsCache | None:
    if directory is None:
        return None
    with Checkpoint.open(path) as checkpoint:
        return StatisticsCache(directory, checkpoint.fingerprint, tokens)
