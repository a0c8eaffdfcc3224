"""Times a speech model: encoding a window, reading the first tokens of a transcript, and decoding one after another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from speech.recording import WINDOW
from sweep.backends.speech_protocol import SpeechBackend

DECODED, REPEATS = 32, 3


@dataclass(frozen=True)
class SpeechRates:
    """Medians of several timings after a warm-up: seconds for a window of 30 s and for the prompt, and tokens per
    second of greedy decoding."""

    encode_seconds: float
    prompt_seconds: float
    decode_tokens_per_s: float

    def real_time_factor(self, tokens: float, seconds: float) -> float:
        """Seconds of computing per second of speech, for windows with `tokens` tokens each of `seconds` s of speech."""
        return (self.encode_seconds + self.prompt_seconds + tokens / self.decode_tokens_per_s) / seconds


def measure_speech_speed(backend: SpeechBackend, language: str) -> SpeechRates:
    """Time a window of noise; what is said does not change the time per token."""
    noise = (np.random.default_rng(0).standard_normal(WINDOW) / 32).astype(np.float32)
    features, prompt = backend.features(noise), backend.decoding(language).prompt
    encodes, prompts, decodes = [], [], []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        session = backend.listen(features)
        session_ready = time.perf_counter()
        row = session.read(prompt)[-1]
        read = time.perf_counter()
        for _ in range(DECODED):
            row = session.read([int(row.argmax())])[-1]
        encodes.append(session_ready - began)
        prompts.append(read - session_ready)
        decodes.append((time.perf_counter() - read) / DECODED)
    return SpeechRates(median(encodes[1:]), median(prompts[1:]), 1 / median(decodes[1:]))
