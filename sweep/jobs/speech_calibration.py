"""The calibration of a speech model: windows of recordings, with their transcripts as the tokens that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError
from int8.samples import Samples
from int8.speech_samples import SpeechWindow, SpeechWindows
from speech.decoding import SpeechTokenizer, read_decoding
from speech.features import open_features
from speech.recording import RecordingError, read_windows
from speech.transcripts import read_speech_set


@dataclass(frozen=True)
class SpeechCalibration:
    """A CalibrationSource: the `count` recordings from row `first` on of a directory (None: all of them), in a
    language.

    Each window of 30 s is a sample. A recording of several windows has its transcript in the first one, because a table
    does not say where in it the others begin.
    """

    name: str
    directory: Path
    language: str = "en"
    first: int = 0
    count: int | None = None

    @property
    def is_cut(self) -> bool:
        return False

    def of(self, path: Path, count: int | None, length: int | None) -> Samples:
        """Up to `count` windows. Raises InputError if there is none, and for a `length`: windows have 30 s."""
        if length is not None:
            raise InputError("--length is for texts: a sample of speech is a window of 30 s; leave it out")
        windows = tuple(self._windows(path, count))
        if not windows:
            raise InputError(f"{self.name}: none of its recordings can be used for calibration")
        return SpeechWindows(windows)

    def _windows(self, path: Path, count: int | None) -> Iterator[SpeechWindow]:
        tokenizer, features = SpeechTokenizer(path), open_features(path)
        decoding, made = read_decoding(path, tokenizer, self.language), 0
        rows = read_speech_set(self.directory).utterances[self.first :]
        for utterance in rows[: self.count]:
            tokens = tokenizer.tokens(utterance.text) if utterance.text else ()
            spoken = tokens[: decoding.longest - len(decoding.prompt) - 1]
            try:
                recordings = list(read_windows(utterance.path))
            except RecordingError:
                continue  # a measurement says so
            for number, samples in enumerate(recordings):
                if made == count:
                    return
                read = spoken if number == 0 else ()
                yield SpeechWindow(features(samples), (*decoding.prompt, *read, decoding.end))
                made += 1
