"""The log-mel spectrogram that a checkpoint reads, by transformers' feature extractor (80 or 128 bands)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from converters.errors import InputError
from speech.recording import RATE

Features = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From up to 30 s of samples at 16 kHz (n,) to the spectrogram of 30 s, float32 (bands, 3000). Shorter recordings are
padded with silence, as the model was trained."""


def open_features(checkpoint: Path) -> Features:
    """The features of a checkpoint. Raises InputError if its preprocessor_config.json is missing or malformed."""
    try:
        extractor = WhisperFeatureExtractor.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint / 'preprocessor_config.json'}: cannot be used: {reason}") from error

    def features(samples: NDArray[np.float32]) -> NDArray[np.float32]:
        found = extractor(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
        return np.asarray(found, np.float32)

    return features
