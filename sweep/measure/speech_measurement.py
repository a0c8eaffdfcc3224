"""Measures all recordings of a directory with a model: transcripts, word errors, and divergence from the reference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.atomic import write_text
from converters.errors import InputError
from speech.normalizer import Normalizer
from speech.recording import RATE, WINDOW, RecordingError, read_windows
from speech.transcripts import Utterance
from speech.word_errors import utterance_errors
from sweep.backends.base import Progress
from sweep.backends.speech_protocol import SpeechBackend
from sweep.measure.perplexity import Windows
from sweep.measure.reference import FULL_VOCABULARY, MAKE_AGAIN, Distributions, ReferenceWriter, open_reference
from sweep.measure.sampling import TAIL, sample_rows
from sweep.measure.softmax import summarize_rows
from sweep.measure.speech import Greedy, WindowTranscript, transcribe
from sweep.measure.speech_results import UtteranceResult

TRANSCRIPTS, DISTRIBUTIONS = "transcripts.json", "distributions.logprobs"
"""The files of the reference in its folder."""
NOISE_LEVEL = 0.03  # root mean square of the white noise, -30 dB of full scale
UNLIKE = 0.9  # WER of a float model from which a transcript probably belongs to other speech
_FEWEST_WORDS = 5  # of a transcript about which that can be said


@dataclass(frozen=True)
class MeasuredSpeech:
    """The usable recordings, why others were left out, and the words that the model writes for 30 s of silence and of
    white noise. `windows` is the number of windows of the recordings."""

    utterances: tuple[UtteranceResult, ...]
    left_out: tuple[str, ...]
    words_on_silence: int
    words_on_noise: int
    windows: int


@dataclass(frozen=True)
class _Positions(Windows):
    """The tokens of all transcripts, as windows with one scored position each. `digest` is a hash of the windows."""

    digest: str = ""

    @cached_property
    def sha256(self) -> str:
        return self.digest


class KnownTranscripts:
    """The folder of a reference: its transcripts, and its distributions along them. Raises InputError."""

    def __init__(self, folder: Path) -> None:
        file = folder / TRANSCRIPTS
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            self.tokens: Mapping[str, list[list[int]]] = dict(row["tokens"])
            self.identity = str(row["identity"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: cannot be read ({error}); {MAKE_AGAIN}") from error
        self.distributions: Distributions = open_reference(folder / DISTRIBUTIONS)
        self._at = 0

    def compare(self, transcript: WindowTranscript, targets: Sequence[int]) -> tuple[float, int]:
        """The sum of the KL divergence of the next window's tokens, and for how many of them the most probable token is
        the same."""
        summary = summarize_rows(transcript.logits)
        rows = self.distributions.rows(self._at, self.distributions.first, len(targets))
        self._at += len(targets)
        found = self.distributions.divergence(
            rows, transcript.logits, summary.normalizers, summary.top, np.array(targets)
        )
        return float(found.kld.sum()), int(found.same_top.sum())


class TranscriptWriter:
    """Collects the reference's transcripts and distributions, and writes them to a folder."""

    def __init__(self, n_vocab: int) -> None:
        self._n_vocab = n_vocab
        self._tokens: dict[str, list[list[int]]] = {}
        self._rows: list[NDArray] = []
        self._count = 0

    def add(self, name: str, transcript: WindowTranscript) -> None:
        """The next window of the recording `name`."""
        self._tokens.setdefault(name, []).append(list(transcript.tokens))
        logits, targets = transcript.logits, np.array(transcript.tokens)
        normalizers = summarize_rows(logits).normalizers
        if self._n_vocab <= FULL_VOCABULARY:
            self._rows.append((logits - normalizers[:, None]).astype("<f4"))
        else:
            generator = np.random.Generator(np.random.PCG64(0).advance(self._count * TAIL))
            self._rows.append(sample_rows(logits, normalizers, targets, generator.random((len(logits), TAIL))))
        self._count += len(targets)

    def write(self, folder: Path, identity: str) -> None:
        """Write the folder; its transcripts come last, and make it complete. Raises InputError."""
        targets = np.concatenate(
            [np.array(window, np.int32) for windows in self._tokens.values() for window in windows]
        )
        positions = _Positions(np.stack([np.zeros_like(targets), targets], axis=1), 0, digest=identity)
        with ReferenceWriter(folder / DISTRIBUTIONS, positions, n_vocab=self._n_vocab, model="") as writer:
            for rows in self._rows:
                writer.append(rows)
        write_text(folder / TRANSCRIPTS, json.dumps({"identity": identity, "tokens": self._tokens}))


def measure_speech(
    backend: SpeechBackend,
    utterances: Sequence[Utterance],
    language: str,
    normalizer: Normalizer,
    *,
    known: KnownTranscripts | None = None,
    writer: TranscriptWriter | None = None,
    progress: Progress,
) -> MeasuredSpeech:
    """Transcribe recordings and count errors; compare with `known`, or collect the reference's own in `writer`.

    Recordings that cannot be decoded are left out. Raises MeasurementError for logits that are not finite.
    """
    greedy = Greedy(backend.decoding(language), backend.n_vocab)
    total, done = sum(one.info.windows for one in utterances) + 2, 0
    found: list[UtteranceResult] = []
    left_out: list[str] = []
    read = 0
    for utterance in utterances:
        reason = _damage(utterance)
        given = None if known is None else known.tokens.get(utterance.name)
        if reason is None and known is not None and given is None:
            reason = f"{utterance.name}: the reference has no transcript of it"
        if reason is not None:
            left_out.append(reason)
            done += utterance.info.windows
            continue
        texts, tokens, kld, same = [], 0, 0.0, 0
        draft = backend.tokenizer.tokens(utterance.text) if utterance.text else ()
        windows = transcribe(backend, greedy, read_windows(utterance.path), given, draft)
        for number, transcript in enumerate(windows):
            texts.append(backend.tokenizer.text(transcript.tokens))
            tokens += len(transcript.logits)
            if known is not None and given is not None:
                nats, agreeing = known.compare(transcript, given[number])
                kld, same = kld + nats, same + agreeing
            if writer is not None:
                writer.add(utterance.name, transcript)
            read, done = read + 1, done + 1
            progress(min(done, total), total)
        text = " ".join(one for one in texts if one)
        errors = utterance_errors(normalizer(utterance.text), normalizer(text))
        compared = known is not None
        found.append(
            UtteranceResult(utterance.name, text, errors, tokens, kld if compared else None, same if compared else None)
        )
    quiet, noise = (_words(backend, greedy, samples, normalizer) for samples in _nothing_said())
    progress(total, total)
    return MeasuredSpeech(tuple(found), tuple(left_out), quiet, noise, read)


def doubtful_transcripts(utterances: Sequence[UtteranceResult]) -> list[str]:
    """The recordings whose transcript probably belongs to other speech, by the errors of a float model."""
    return [
        one.name
        for one in utterances
        if one.errors.words >= _FEWEST_WORDS and one.errors.errors >= UNLIKE * one.errors.words
    ]


def _damage(utterance: Utterance) -> str | None:
    """Why a recording cannot be used; it is decoded once for that, which takes little beside the model."""
    try:
        for _ in read_windows(utterance.path):
            pass
    except RecordingError as error:
        return str(error).replace(str(utterance.path), utterance.name)
    return None


def _nothing_said() -> Iterator[NDArray[np.float32]]:
    """30 s of silence, and of white noise."""
    yield np.zeros(WINDOW, np.float32)
    noise = np.random.default_rng(0).standard_normal(WINDOW)
    yield (NOISE_LEVEL * noise).astype(np.float32)


def _words(backend: SpeechBackend, greedy: Greedy, samples: NDArray[np.float32], normalizer: Normalizer) -> int:
    (transcript,) = transcribe(backend, greedy, iter([samples]), None, ())
    return len(normalizer(backend.tokenizer.text(transcript.tokens)).split())


SECONDS_PER_WINDOW = WINDOW / RATE
