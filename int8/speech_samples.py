"""The calibration samples of a speech model: windows of speech with what is said in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SpeechWindow:
    """A spectrogram, float32 (bands, frames), and the tokens that the decoder reads with it."""

    features: NDArray[np.float32]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class SpeechWindows:
    """Windows of speech. Each of them is a sample."""

    windows: tuple[SpeechWindow, ...]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def n_tokens(self) -> int:
        """The number of tokens of all windows."""
        return sum(len(window.tokens) for window in self.windows)

    @property
    def digest(self) -> str:
        """A hash of the content."""
        found = hashlib.sha256()
        for window in self.windows:
            found.update(window.features.tobytes())
            found.update(repr(window.tokens).encode())
        return found.hexdigest()
