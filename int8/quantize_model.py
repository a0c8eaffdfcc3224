"""The steps from a checkpoint directory to its fake-quant model: load, calibrate on a text, fold, fake-quantize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from converters.checkpoint import Checkpoint
from converters.errors import InputError, MissingRuntime
from int8.architectures import is_speech, require_quantizable, require_vision_config
from int8.calibrate import calibrate
from int8.calibrate_speech import calibrate_speech
from int8.calibration_text import LENGTH, SAMPLES, samples
from int8.checkpoint import CalibrationRecord
from int8.layer_inputs import Progress
from int8.model import open_model
from int8.recipe import Recipe
from int8.samples import Samples, sample_sizes
from int8.speech_model import open_speech_model
from int8.statistics import Statistics, StatisticsCache
from int8.tokenizer import load_tokenizer


class CalibrationSource(Protocol):
    """What a model is calibrated with: `name` for messages. `is_cut`: samples are pieces of a text, of any length;
    otherwise the source consists of samples."""

    @property
    def name(self) -> str: ...

    @property
    def is_cut(self) -> bool: ...

    def of(self, path: Path, count: int | None, length: int | None) -> Samples:
        """The samples for the checkpoint `path`: `count` samples of `length` tokens; None: by default. Raises
        InputError."""
        ...


@dataclass(frozen=True)
class CalibrationText:
    """A calibration text: `name` for messages, and `read`, which returns its content when a tokenizer needs it.

    `parse_special`: whether special tokens in the text are read as such, or as plain text.
    """

    name: str
    read: Callable[[PreTrainedTokenizerBase], str]
    parse_special: bool = False

    @property
    def is_cut(self) -> bool:
        return True

    def of(self, path: Path, count: int | None, length: int | None) -> Samples:
        return self.samples(load_tokenizer(path), count, length)

    def samples(self, tokenizer: PreTrainedTokenizerBase, count: int | None, length: int | None) -> Tensor:
        """Samples, int64 [count, length]; see int8.calibration_text.samples."""
        return samples(tokenizer, self.read(tokenizer), self.name, count, length, parse_special=self.parse_special)


class RandomTokens(CalibrationText):
    """Tokens drawn at random from the vocabulary, without special tokens; the same ones each time."""

    SEED = 0

    def __init__(self) -> None:
        super().__init__("random tokens", lambda _: "")

    def samples(self, tokenizer: PreTrainedTokenizerBase, count: int | None, length: int | None) -> Tensor:
        special = set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids)
        ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))
        shape = SAMPLES if count is None else count, LENGTH if length is None else length
        generator = torch.Generator().manual_seed(self.SEED)
        return ordinary[torch.randint(len(ordinary), shape, generator=generator)]


def quantize_model(
    path: Path,
    recipe: Recipe,
    text: CalibrationSource | None,
    *,
    count: int | None = None,
    length: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[PreTrainedModel, CalibrationRecord]:
    """Load the checkpoint `path` as a fake-quant model on the CPU. Returns it and a record of its calibration.

    `count` samples of `length` tokens are cut from the text (see int8.calibration_text). Layers are calibrated on
    `device`; statistics are cached in `cache`. Recipes that need no text do not read it; for others `text` must not be
    None. Weights that stay float have `dtype`, but those of a speech model keep the checkpoint's. Raises InputError for
    bad input, and MissingRuntime for a device that this machine lacks.
    """
    require_device(device)
    require_quantizable(path)
    if recipe.vision:
        require_vision_config(path, recipe.name)
    read: Samples = torch.empty(0, 1, dtype=torch.long)
    kept = None
    if recipe.needs_text:
        assert text is not None
        read = text.of(path, count, length)
        kept = _cache(path, cache, read)
    known = kept.load(recipe) if kept else Statistics()
    if is_speech(path):
        model = open_speech_model(path)
        statistics = calibrate_speech(model, read, recipe, device=device, known=known, progress=progress)
    else:
        model = open_model(path, dtype)
        statistics = calibrate(model, read, recipe, device=device, known=known, progress=progress)
    if kept:
        kept.save(recipe, statistics)
    if text is None or not len(read):
        return model, CalibrationRecord(None)
    return model, CalibrationRecord(text.name, *sample_sizes(read), statistics.expert_tokens)


def require_device(device: str) -> None:
    """Raise InputError for an unknown device name, and MissingRuntime for a device that this machine lacks."""
    try:
        torch.empty(0, device=device)
    except RuntimeError as error:
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda", "mps", "xpu"):
            raise InputError(f"{device!r} is not a device; give cpu, cuda or cuda:1") from error
        raise MissingRuntime(f"{device}: torch does not find this device ({str(error).splitlines()[0]})") from error
    except AssertionError as error:  # raised if torch was built without support for it
        raise MissingRuntime(f"{device}: {error}") from error


def _cache(path: Path, directory: Path | None, read: Samples) -> StatisticsCache | None:
    if directory is None:
        return None
    with Checkpoint.open(path) as checkpoint:
        return StatisticsCache(directory, checkpoint.fingerprint, read)
