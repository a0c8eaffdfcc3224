"""Reading recordings: any format of libsndfile (FLAC, WAV, MP3, Ogg, Opus), any rate and number of channels, in windows
of 30 s at 16 kHz as Whisper was trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from speech.missing import require

RATE = 16_000
WINDOW_SECONDS = 30
WINDOW = RATE * WINDOW_SECONDS
"""Samples of a window."""
_BLOCK_SECONDS = 10  # of a read, so that a recording of hours is never whole in memory
_LENGTH_TOLERANCE = 0.01  # of the length that the file states: some encoders state one that is slightly off


class RecordingError(InputError):
    """A recording that cannot be used."""


@dataclass(frozen=True)
class RecordingInfo:
    """The duration in seconds, the sample rate in Hz and the number of channels that a file states."""

    seconds: float
    rate: int
    channels: int

    @property
    def windows(self) -> int:
        """The number of windows of 30 s, the last one padded."""
        return max(1, -(-round(self.seconds * RATE) // WINDOW))


def read_info(path: Path) -> RecordingInfo:
    """What the file states, without decoding it. Raises RecordingError, and MissingRuntime without the extra."""
    with _opened(path) as file:
        return RecordingInfo(file.frames / file.samplerate, file.samplerate, file.channels)


def read_windows(path: Path) -> Iterator[NDArray[np.float32]]:
    """The recording as mono at 16 kHz, float32 (samples,) of up to 30 s each, not padded.

    Channels are averaged. Raises RecordingError for a file that is no audio, is damaged or ends too early, and for
    samples that are not finite.
    """
    held = np.empty(0, np.float32)
    for part in _resampled(path):
        held = np.concatenate([held, part])
        while len(held) > WINDOW:
            yield held[:WINDOW]
            held = held[WINDOW:]
    if len(held):
        yield held


def _resampled(path: Path) -> Iterator[NDArray[np.float32]]:
    soundfile, soxr = require("soundfile"), require("soxr")
    with _opened(path) as file:
        stream = None if file.samplerate == RATE else soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32")
        read = 0
        while True:
            try:
                block = file.read(_BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                at = read / file.samplerate
                raise RecordingError(f"{path}: cannot be decoded after {at:.1f} s ({_reason(error)})") from error
            if not len(block):
                break
            read += len(block)
            if not np.isfinite(block).all():
                raise RecordingError(f"{path}: has samples that are NaN or infinite")
            mono = np.ascontiguousarray(block.mean(1, dtype=np.float32))
            yield mono if stream is None else stream.resample_chunk(mono)
        if read < file.frames * (1 - _LENGTH_TOLERANCE):
            has, states = read / file.samplerate, file.frames / file.samplerate
            raise RecordingError(f"{path}: ends after {has:.1f} s of {states:.1f} s; the file is truncated")
        if stream is not None:
            yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _opened(path: Path) -> Any:
    soundfile = require("soundfile")
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        why = "there is no such file" if not path.is_file() else f"is no audio that can be read ({_reason(error)})"
        raise RecordingError(f"{path}: {why}") from error
    if not file.frames:
        file.close()
        raise RecordingError(f"{path}: has no samples")
    return file


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
