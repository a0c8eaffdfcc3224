"""The plan of a sweep over a speech model: its recordings, and which of them recipes are calibrated with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from converters.checkpoint import Checkpoint, read_config
from converters.errors import InputError
from converters.resolver import Need, find_model
from int8.architectures import SPEECH, require_quantizable
from speech.decoding import SpeechTokenizer, read_decoding
from speech.features import open_features
from speech.normalizer import normalizer_words
from speech.transcripts import SpeechSet, Utterance, read_speech_set
from sweep.artefact import Artefact, sampled_digest
from sweep.jobs.base import Host
from sweep.jobs.cell import SweepInputs, SweepSpeech
from sweep.jobs.inputs import Origin, SpeechFile
from sweep.jobs.model import opener
from sweep.jobs.registry import SPEECH as SPEECH_MEASUREMENT
from sweep.jobs.settings import Settings
from sweep.methods.base import Variant
from sweep.methods.torch import SPEECH_FLOAT, TorchVariant
from sweep.planning.model import ResolvedModel
from sweep.planning.planner import PlanSpec
from sweep.planning.request import Request

MOST_CALIBRATION = 16  # recordings that recipes are calibrated with, if they are those of --audio
CALIBRATION_SHARE = 8  # and at most one of so many
FEW_WORDS = 1300
"""Words of transcripts below which an interval of WER is wider than about one percentage point."""


@dataclass(frozen=True)
class SpeechPlan:
    """What a speech sweep is planned with, before its variants' cells."""

    spec: PlanSpec
    model: ResolvedModel
    inputs: SweepInputs


def is_speech_model(path: Path) -> bool:
    """Whether a directory is a checkpoint of a speech model."""
    return (path / "config.json").is_file() and read_config(path).get("model_type") in SPEECH


def plan_speech(
    request: Request, variants: Sequence[Variant], preset: str, say: Callable[[str], None], host: Host
) -> SpeechPlan:
    """Read the recordings and the checkpoint's settings. Raises InputError for any bad input, MissingRuntime without
    the extra bitsweep[speech]."""
    assert request.audio is not None
    _reject_other_options(request)
    strangers = [one.name for one in variants if not isinstance(one, TorchVariant)]
    if strangers:
        raise InputError(
            f"{', '.join(strangers)}: llama.cpp does not run speech models; choose int8: and fq: variants, or --preset"
            " whisper-int8"
        )
    audio = read_speech_set(request.audio.expanduser().resolve())  # a mistake is an error before a download
    model = _resolve(request.model, say)
    for kind in reversed(dict.fromkeys(type(variant) for variant in variants)):
        kind.require_model([variant for variant in variants if type(variant) is kind], model.path)
    _check_settings(model.path, request.language)
    if audio.problem_words is not None:
        say(audio.problem_words)
    needs = any(variant.needs_calibration for variant in variants)
    speech = _speech(request, audio, needs, say)
    words = sum(len(one.text.split()) for one in _part(audio.utterances, speech.measured))
    if words < FEW_WORDS:
        say(
            f"{speech.measured.name}: its transcripts have {words:,} words; KL divergence tells recipes apart with it,"
            f" but a difference of one point of WER needs about {FEW_WORDS:,}"
        )
    say(f"word errors are counted after {normalizer_words(model.path, request.language)}")
    origin = Origin(model.name, Artefact(str(model.path)), model.fingerprint)
    inputs = SweepInputs(
        origin=origin,
        settings=Settings(window=Settings.window, ctx=model.context),
        resources=host.resources({opener(variant.opener).engine for variant in variants} | {"llama.cpp"}),
        folder=f"artefacts/{model.fingerprint[:16]}",
        measure=(SPEECH_MEASUREMENT,),
        speech=speech,
    )
    spec = PlanSpec(model, tuple(variants), SPEECH_FLOAT, inputs, preset, question=request.question)
    return SpeechPlan(spec, model, inputs)


def _reject_other_options(request: Request) -> None:
    """Raise InputError for options of other sweeps."""
    given = (
        ("--perplexity", bool(request.perplexity)),
        ("--imatrix", request.imatrix is not None),
        ("--gpu", bool(request.gpu)),
        ("--search", request.search is not None),
        ("--draft", request.draft is not None),
        ("--depth", bool(request.depth)),
        ("--kv-type", not request.kv_type.is_default),
    )
    wrong = [option for option, is_given in given if is_given]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: not for speech models (--audio); leave it out")


def _resolve(text: str, say: Callable[[str], None]) -> ResolvedModel:
    found = find_model(text, Need.CHECKPOINT, say, is_repository=False)
    path = found.path
    if not is_speech_model(path):
        raise InputError(f"{text}: is no speech model, so --audio is not for it; give a checkpoint of Whisper")
    require_quantizable(path)
    config = read_config(path)
    with Checkpoint.open(path, found.name) as checkpoint:
        weights = sum(prod(tensor.shape) for tensor in checkpoint.tensors.values())
        layers = int(config["encoder_layers"]) + int(config["decoder_layers"])
        return ResolvedModel(
            found.name,
            path,
            checkpoint.fingerprint,
            int(config["max_target_positions"]),
            layers=layers,
            weights=weights,
        )


def _check_settings(path: Path, language: str) -> None:
    """Open what every measurement will need. Raises InputError."""
    read_decoding(path, SpeechTokenizer(path), language)
    open_features(path)


def _speech(request: Request, audio: SpeechSet, needs_calibration: bool, say: Callable[[str], None]) -> SweepSpeech:
    """The recordings to measure on, and those to calibrate with: of --calibration, or the first ones of --audio, which
    are not measured then."""
    language, count = request.language, len(audio.utterances)
    own = None
    first = 0
    if needs_calibration and request.calibration is not None:
        other = read_speech_set(request.calibration.expanduser().resolve())
        if other.problem_words is not None:
            say(other.problem_words)
        own = _file(other, language, 0, min(MOST_CALIBRATION, len(other.utterances)))
        if other.directory == audio.directory:
            raise InputError(
                f"--calibration {request.calibration}: is the directory of --audio; leave it out, and the first of its"
                " recordings are for calibration, the others are measured"
            )
    elif needs_calibration:
        if count < 2:
            raise InputError(
                f"{audio.directory}: has one recording, but recipes are calibrated with others than they are measured"
                " on; give more, or --calibration DIR"
            )
        first = max(1, min(MOST_CALIBRATION, count // CALIBRATION_SHARE))
        own = _file(audio, language, 0, first)
        say(f"the first {first} recordings of {audio.directory.name} are for calibration, the others are measured")
    most = count - first if request.limit is None else min(request.limit, count - first)
    return SweepSpeech(_file(audio, language, first, most), own)


def _part(utterances: Sequence[Utterance], file: SpeechFile) -> Sequence[Utterance]:
    return utterances[file.first :][: file.count]


def _file(audio: SpeechSet, language: str, first: int, count: int) -> SpeechFile:
    part = audio.utterances[first : first + count]
    digest = hashlib.sha256(language.encode())
    for one in part:
        digest.update(f"{one.name}\0{one.text}\0{sampled_digest(one.path)}\0".encode())
    return SpeechFile(
        audio.directory.name,
        Artefact.of(audio.directory),
        digest.hexdigest(),
        language,
        first,
        count,
        sum(one.info.seconds for one in part),
        sum(one.info.windows for one in part),
    )
