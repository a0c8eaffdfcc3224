"""The SpeechBackend protocol: what measurements of speech use of a model with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speech.decoding import Decoding, SpeechTokenizer
from speech.features import Features
from sweep.backends.base import MemoryUse


class SpeechSession(Protocol):
    """The decoder on one window: tokens are read one after another, each once."""

    def read(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Read tokens after those before. Returns logits (n, n_vocab): row i predicts what follows token i of them."""
        ...

    def cut(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        ...


class SpeechBackend(Protocol):
    """A speech model. `load_seconds` is how long opening it took."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def load_seconds(self) -> float: ...

    @property
    def tokenizer(self) -> SpeechTokenizer: ...

    @property
    def features(self) -> Features: ...

    def decoding(self, language: str) -> Decoding:
        """How it decodes a language. Raises InputError for one that it does not know."""
        ...

    def listen(self, features: NDArray[np.float32]) -> SpeechSession:
        """Encode a window (bands, frames); the session reads tokens for it."""
        ...

    def memory(self) -> MemoryUse: ...

    def close(self) -> None: ...
