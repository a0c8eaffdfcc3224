"""The jobs that measure a speech model on recordings. For the reference, the first one writes the transcripts and the
distributions along them that other variants are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

from converters.errors import InputError
from sweep import format as fmt
from sweep.artefact import Artefact
from sweep.jobs.base import Result, Site, content_hash
from sweep.jobs.cell import PlannedJob, SweepInputs
from sweep.jobs.inputs import Baseline, SpeechFile
from sweep.jobs.model import MeasuredModel, MeasurementJob, opener
from sweep.jobs.settings import ComputeResources
from sweep.jobs.speed import MeasuredMemory
from sweep.measure.speech_results import UtteranceResult, divergence, word_error_rate
from sweep.measure.speech_speed import SpeechRates

if TYPE_CHECKING:
    from sweep.backends.speech_protocol import SpeechBackend


@dataclass(frozen=True)
class SpeechResult(Result):
    """The recordings with their errors; `words_on_silence` and `words_on_noise` are what the model writes for 30 s
    without speech, `windows` the number of windows of 30 s that were read. `incomplete_reason` says why nothing is
    compared although there is a reference."""

    utterances: tuple[UtteranceResult, ...]
    words_on_silence: int
    words_on_noise: int
    windows: int
    notes: tuple[str, ...] = ()
    incomplete_reason: str | None = None

    @property
    def summary(self) -> str:
        compared, rate = divergence(self.utterances), word_error_rate(self.utterances)
        if compared is not None:
            return f"KLD {fmt.small(compared.value)}"
        return "no transcript" if rate is None else f"WER {100 * rate.value:.1f} %"


@dataclass(frozen=True)
class SpeechJob(MeasurementJob[SpeechResult]):
    """Transcribe recordings, count errors, and compare with the reference along its transcripts.

    `reference` is the folder with the transcripts and distributions to compare with, `baseline` their identity; both
    are None for the reference itself, which writes `distributions`.
    """

    kind = "speech"
    result_type = SpeechResult
    weight = 4.0

    model: MeasuredModel
    speech: SpeechFile
    baseline: str | None = None
    reference: Artefact | None = None
    distributions: Artefact | None = None

    def identity(self, resources: ComputeResources) -> Any:
        own = {"speech": self.speech.identity, "reference": self.baseline}
        return {"kind": self.kind, "procedure": self.procedure, **self.model.identity(resources), **own}

    @property
    def output(self) -> Artefact | None:
        return self.distributions

    @property
    def timing_group(self) -> str:
        return self.speech.name

    @property
    def work_units(self) -> int:
        return max(1, self.speech.windows)

    def without_reference(self) -> Self:
        return replace(self, reference=None)

    def run(self, site: Site) -> SpeechResult:
        from speech.normalizer import open_normalizer
        from speech.transcripts import read_speech_set
        from sweep.measure.speech_measurement import (
            KnownTranscripts,
            TranscriptWriter,
            doubtful_transcripts,
            measure_speech,
        )

        backend = cast("SpeechBackend", site.open(self.model))
        speech = self.speech
        last = None if speech.count is None else speech.first + speech.count
        found_set = read_speech_set(site.path(speech.directory))
        rows = found_set.utterances[speech.first : last]
        assert self.model.checkpoint is not None
        normalizer = open_normalizer(site.path(self.model.checkpoint), speech.language)
        known, incomplete = None, None
        if self.reference is not None:
            try:
                known = KnownTranscripts(site.path(self.reference))
            except InputError as error:
                incomplete = f"no divergence: {error}"
        writer = None if self.distributions is None else TranscriptWriter(backend.n_vocab)
        found = measure_speech(
            backend, rows, speech.language, normalizer, known=known, writer=writer, progress=site.report_progress
        )
        if not found.utterances:
            raise InputError(f"{speech.name}: no recording can be used: {found.left_out[0]}")
        if writer is not None and self.distributions is not None:
            writer.write(site.path(self.distributions), content_hash({"speech": speech.identity}))
        notes = [f"left out: {reason}" for reason in (*found_set.problems, *found.left_out)]
        doubtful = doubtful_transcripts(found.utterances) if self.baseline is None else []
        if doubtful:
            notes.append(
                f"the transcript of {', '.join(doubtful)} is unlike what the float model hears: check whether it"
                f" belongs to the recording, and its language ({speech.language})"
            )
        return SpeechResult(
            found.utterances,
            found.words_on_silence,
            found.words_on_noise,
            found.windows,
            tuple(notes),
            incomplete,
        )


@dataclass(frozen=True)
class SpeechSpeedResult(Result):
    """See SpeechRates; and the size and memory of the model."""

    speed: SpeechRates
    memory: MeasuredMemory
    load_seconds: float

    @property
    def summary(self) -> str:
        return f"{self.speed.encode_seconds:.2f} s per window"


@dataclass(frozen=True)
class SpeechSpeedJob(MeasurementJob[SpeechSpeedResult]):
    """Time the encoder and the decoder of a speech model."""

    kind = "speech_speed"
    result_type = SpeechSpeedResult
    exclusive = True

    model: MeasuredModel
    language: str = "en"

    def identity(self, resources: ComputeResources) -> Any:
        return {"kind": self.kind, "procedure": self.procedure, **self.model.speed_identity(resources)}

    def run(self, site: Site) -> SpeechSpeedResult:
        from sweep.measure.speech_speed import measure_speech_speed

        size = opener(self.model.opener).size(self.model, site)
        backend = cast("SpeechBackend", site.open(self.model))
        speed, used = measure_speech_speed(backend, self.language), backend.memory()
        memory = MeasuredMemory(size.memory_bytes, used.measured_bytes, used.resident_bytes, used.device_bytes)
        return SpeechSpeedResult(speed, memory, backend.load_seconds)


SPEED_CELL = "speech speed"
SPEECH_CACHE = "f32"
"""The type of the KV cache of speech models, as records show it; recipes can make it int8."""


def speech_jobs(model: MeasuredModel, inputs: SweepInputs, baseline: Baseline | None) -> Iterable[PlannedJob]:
    """The jobs of a speech model: none for other models. The first variant writes its transcripts for the others."""
    if inputs.speech is None:
        return
    speech, known = inputs.speech.measured, inputs.speech_reference
    identity = content_hash(model.identity(inputs.resources) | {"speech": speech.identity})
    job = SpeechJob(
        model,
        speech,
        baseline=None if known is None else known.identity,
        reference=None if known is None else known.file,
        distributions=inputs.artefact(f"speech-{identity[:16]}") if known is None else None,
    )
    yield PlannedJob("speech", job, () if known is None or known.key is None else (known.key,))
    yield PlannedJob(SPEED_CELL, SpeechSpeedJob(model, speech.language))
