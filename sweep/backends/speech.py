"""A SpeechBackend that runs Whisper in torch, in float32: the checkpoint itself, fake-quant or real int8.

Whisper is small, and its activations overflow float16 in places, so everything that is not quantized is computed in
float32 on every device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EncoderDecoderCache, PreTrainedModel

from int8.checkpoint import is_int8, load
from int8.linear import require_int8
from int8.real_int8 import to_int8
from int8.speech_cache import speech_cache
from int8.speech_model import open_speech_model
from speech.decoding import Decoding, SpeechTokenizer, read_decoding
from speech.features import Features, open_features
from sweep.backends.base import MemoryUse
from sweep.backends.device_memory import DeviceGrowth
from sweep.backends.resident_memory import ResidentGrowth


class WhisperSession:
    """See SpeechSession."""

    def __init__(self, model: PreTrainedModel, states: Tensor, cache: EncoderDecoderCache) -> None:
        self._model, self._states, self._cache = model, states, cache
        self._length = 0

    @torch.inference_mode()
    def read(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        model: Any = self._model
        ids = torch.tensor([list(tokens)], device=self._states.device)
        found = model.model.decoder(
            input_ids=ids, encoder_hidden_states=self._states, past_key_values=self._cache, use_cache=True
        )
        self._length += len(tokens)
        logits: NDArray[np.float32] = model.proj_out(found.last_hidden_state)[0].float().cpu().numpy()
        return logits

    def cut(self, length: int) -> None:
        removed = self._length - length
        if removed > 0:
            self._cache.self_attention_cache.crop(-removed)
            self._length = length


class WhisperBackend:
    """See SpeechBackend."""

    def __init__(
        self,
        path: Path,
        model: PreTrainedModel,
        growth: ResidentGrowth,
        device_growth: DeviceGrowth | None,
        load_seconds: float,
        new_cache: Callable[[], EncoderDecoderCache],
    ) -> None:
        self._path, self._model, self._growth, self._device_growth = path, model, growth, device_growth
        self._new_cache = new_cache
        self.load_seconds = load_seconds
        self.n_vocab = int(model.config.vocab_size)

    @cached_property
    def tokenizer(self) -> SpeechTokenizer:
        return SpeechTokenizer(self._path)

    @cached_property
    def features(self) -> Features:
        return open_features(self._path)

    def decoding(self, language: str) -> Decoding:
        return read_decoding(self._path, self.tokenizer, language)

    @torch.inference_mode()
    def listen(self, features: NDArray[np.float32]) -> WhisperSession:
        model: Any = self._model
        states = model.model.encoder(torch.from_numpy(features)[None].to(model.device)).last_hidden_state
        self._growth.sample()
        return WhisperSession(self._model, states, self._new_cache())

    def memory(self) -> MemoryUse:
        self._growth.sample()
        if self._device_growth is not None:
            self._device_growth.sample()
        device = 0 if self._device_growth is None else self._device_growth.peak_bytes
        return MemoryUse(self._weight_bytes, self._growth.peak_bytes, device)

    @property
    def _weight_bytes(self) -> int:
        held = [*self._model.parameters(), *self._model.buffers()]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in held}.values())

    def close(self) -> None:
        del self._model


def open_speech_float(path: Path, device: str) -> WhisperBackend:
    """A Whisper checkpoint in float32. Raises InputError."""
    growth, device_growth, began = _growth(path, device)
    model = open_speech_model(path).float().to(device)
    seconds = time.perf_counter() - began
    return WhisperBackend(path, model, growth, device_growth, seconds, lambda: speech_cache(model, None))


def open_speech_quantized(path: Path, device: str, *, real: bool) -> WhisperBackend:
    """An int8 checkpoint of Whisper, computed in int8, or in float as fake-quant. Raises InputError if it cannot be
    loaded, MissingRuntime if the GPU does not support int8."""
    if real:
        require_int8(torch.device(device))
    growth, device_growth, began = _growth(path, device)
    model, recipe = load(path)
    model = model.float().to(device)
    if real:
        model = to_int8(model, recipe)
    seconds = time.perf_counter() - began
    return WhisperBackend(path, model, growth, device_growth, seconds, lambda: speech_cache(model, recipe))


def open_speech(path: Path, device: str = "cpu", *, real: bool = True) -> WhisperBackend:
    """A Whisper checkpoint of either kind."""
    return open_speech_quantized(path, device, real=real) if is_int8(path) else open_speech_float(path, device)


def _growth(path: Path, device: str) -> tuple[ResidentGrowth, DeviceGrowth | None, float]:
    """What measures the memory that opening a checkpoint takes, and the time now."""
    growth = ResidentGrowth(sorted(path.glob("*.safetensors")))
    return growth, DeviceGrowth() if torch.device(device).type == "cuda" else None, time.perf_counter()
