"""Exact greedy transcripts by teacher forcing, against transformers' generate; and divergence along transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speech_models import END, NEVER, TIMESTAMPS, make_checkpoint, make_recordings
from transformers import WhisperForConditionalGeneration

from converters.errors import InputError
from speech.decoding import SpeechTokenizer, read_decoding
from speech.normalizer import open_normalizer
from speech.recording import RATE
from speech.transcripts import read_speech_set
from speech.word_errors import UtteranceErrors
from sweep.backends.speech import WhisperBackend, open_speech
from sweep.measure import speech_results as results
from sweep.measure.speech import Greedy, transcribe
from sweep.measure.speech_measurement import KnownTranscripts, TranscriptWriter, measure_speech
from sweep.measure.speech_results import UtteranceResult
from sweep.measure.task_options import MeasurementError

SEEDS = range(4)


def sounds(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.normal(0, 0.1 * 3.0**i, RATE * (i + 1)).astype(np.float32) for i in range(count)]


@pytest.fixture(scope="module", params=SEEDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("whisper") / "model", seed=request.param)


def generated(path: Path, backend: WhisperBackend, samples: np.ndarray) -> list[int]:
    """transformers' greedy transcript, without its prompt."""
    model = WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    features = torch.from_numpy(backend.features(samples))[None]
    found = model.generate(
        input_features=features, language="en", task="transcribe", return_timestamps=False, num_beams=1,
        do_sample=False, max_length=40,
    )  # fmt: skip
    tokens = found[0].tolist()
    prompt = list(backend.decoding("en").prompt)
    tokens = tokens[len(prompt) :] if tokens[: len(prompt)] == prompt else tokens
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def test_transcripts_are_those_of_generate_whatever_is_guessed(checkpoint: Path) -> None:
    backend = open_speech(checkpoint)
    greedy, rng = Greedy(backend.decoding("en"), backend.n_vocab), np.random.default_rng(0)
    for samples in sounds():
        expected = generated(checkpoint, backend, samples)
        half = [*expected[:5], 9, *expected[5:12], *expected[14:]]
        drafts: list[Sequence[int]] = [(), expected, expected[:-1], half, rng.integers(0, 250, 20).tolist()]
        for draft in drafts:
            (found,) = transcribe(backend, greedy, iter([samples]), None, draft)
            assert list(found.tokens) == expected
            assert found.logits.shape == (len(expected), backend.n_vocab)
            (along,) = transcribe(backend, greedy, iter([samples]), [half], ())
            assert list(along.tokens) == expected
            assert len(along.logits) == len(half)


def test_logits_along_a_transcript_are_those_of_the_model(checkpoint: Path) -> None:
    backend = open_speech(checkpoint)
    greedy, samples = Greedy(backend.decoding("en"), backend.n_vocab), sounds(1)[0]
    known = [5, 60, 61, 62, END]
    (found,) = transcribe(backend, greedy, iter([samples]), [known], ())
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    prompt = backend.decoding("en").prompt
    with torch.no_grad():
        expected = model(
            input_features=torch.from_numpy(backend.features(samples))[None],
            decoder_input_ids=torch.tensor([[*prompt, *known]]),
        ).logits[0, len(prompt) - 1 : -1]
    assert np.abs(found.logits - expected.numpy()).max() < 1e-4


def test_forbidden_tokens_never_come(checkpoint: Path) -> None:
    backend = open_speech(checkpoint)
    greedy = Greedy(backend.decoding("en"), backend.n_vocab)
    row = np.zeros(backend.n_vocab, np.float32)
    row[[NEVER[0], TIMESTAMPS, TIMESTAMPS + 4]] = 9.0
    row[20] = 8.0
    row[21] = 7.0
    assert greedy.choose(row, first=True) == 21
    assert greedy.choose(row, first=False) == 20
    row[0] = np.nan
    with pytest.raises(MeasurementError, match="not finite"):
        greedy.choose(row, first=False)


def test_settings_of_decoding_are_read_from_the_checkpoint(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model")
    tokenizer = SpeechTokenizer(path)
    german = read_decoding(path, tokenizer, "de")
    names = ("<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>")
    assert german.prompt == tuple(tokenizer.special(one) for one in names)
    assert german.longest == 40
    assert tokenizer.text(tokenizer.tokens("Grüße, you.")) == "Grüße, you."
    with pytest.raises(InputError, match="knows no language 'xx'"):
        read_decoding(path, tokenizer, "xx")
    settings = (path / "generation_config.json").read_text()
    (path / "generation_config.json").write_text(settings.replace('lingual": true', 'lingual": false'))
    assert len(read_decoding(path, tokenizer, "en").prompt) == 2
    with pytest.raises(InputError, match="is a model for English"):
        read_decoding(path, tokenizer, "de")
    (path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: is missing"):
        SpeechTokenizer(path)


def test_a_model_compared_with_itself_has_no_divergence_and_another_one_has(tmp_path: Path) -> None:
    models = [make_checkpoint(tmp_path / f"model{seed}", seed) for seed in (0, 1)]
    audio = read_speech_set(make_recordings(tmp_path / "audio", 3)).utterances
    normalizer = open_normalizer(models[0], "en")
    backends = [open_speech(path) for path in models]
    writer = TranscriptWriter(backends[0].n_vocab)
    steps: list[tuple[int, int]] = []
    own = measure_speech(
        backends[0], audio, "en", normalizer, writer=writer, progress=lambda done, total: steps.append((done, total))
    )
    assert steps[-1] == (5, 5)  # three recordings, silence and noise
    writer.write(tmp_path / "reference", "x")
    found = [
        measure_speech(
            backend, audio, "en", normalizer, known=KnownTranscripts(tmp_path / "reference"), progress=lambda *_: None
        )
        for backend in backends
    ]
    same, other = (results.divergence(one.utterances) for one in found)
    assert same is not None
    assert other is not None
    assert abs(same.value) < 1e-6
    assert results.top1_agreement(found[0].utterances) == 1.0
    assert other.value > 0.1
    assert [one.text for one in found[0].utterances] == [one.text for one in own.utterances]
    expected = []
    for utterance, backend in ((one, backend) for one in audio for backend in backends):
        known = KnownTranscripts(tmp_path / "reference").tokens[utterance.name]
        greedy = Greedy(backend.decoding("en"), backend.n_vocab)
        samples = soundfile.read(utterance.path, dtype="float32")[0]
        (along,) = transcribe(backend, greedy, iter([samples]), known, ())
        expected.append(torch.from_numpy(along.logits).double().log_softmax(-1))
    nats = [(p.exp() * (p - q)).sum().item() for p, q in zip(expected[::2], expected[1::2], strict=True)]
    tokens = sum(len(p) for p in expected[::2])
    assert other.value == pytest.approx(sum(nats) / tokens, rel=1e-4)


def result(name: str, words: int, errors: int) -> UtteranceResult:
    return UtteranceResult(name, "", UtteranceErrors(words, errors, 0, 0, 4 * words, errors, 0), 10, 0.01 * errors, 9)


def test_intervals_are_paired_by_recording() -> None:
    rng = np.random.default_rng(0)
    base = [result(str(i), 50, int(rng.integers(0, 12))) for i in range(60)]
    worse = [result(one.name, 50, one.errors.errors + (i % 3 == 0)) for i, one in enumerate(base)]
    rate, paired = results.word_error_rate(base), results.wer_difference(worse, base)
    assert rate is not None
    assert paired is not None
    assert paired.value == pytest.approx(20 / 3000)
    assert rate.low is not None
    assert rate.high is not None
    assert paired.low is not None
    assert paired.high is not None
    assert 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < 0.5 * (rate.high - rate.low)  # what pairing is for
    same = results.wer_difference(base, base)
    assert (same.low, same.high) == (0.0, 0.0)  # type: ignore[union-attr]
    assert results.wer_difference(worse, base[1:]) is None
    effect = results.design_effect(base)
    assert effect is not None
    assert effect > 1.5  # errors vary more between recordings than independent words would


def test_recordings_without_words_count_as_invented_text_alone() -> None:
    silent = UtteranceResult("s", "thank you", UtteranceErrors(0, 0, 0, 2, 0, 9, 0), 3)
    assert results.word_error_rate([result("a", 10, 1), silent]) == results.Ratio(0.1)
    assert results.word_error_rate([silent]) is None
    assert results.invented_words([result("a", 10, 1), silent]) == 2
