"""The speech figures of a record, from the results of a variant and of its reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweep.jobs.speech import SpeechResult, SpeechSpeedResult
from sweep.measure import speech_results as figures
from sweep.measure.speech_measurement import SECONDS_PER_WINDOW
from sweep.record import Memory, Speech


def speech_figures(results: Mapping[str, Any], base: SpeechResult | None) -> Speech | None:
    """The figures of the variant with these results by cell; `base` is the reference's result, None for the reference
    itself or if there is none. None without a result of speech."""
    own = _one(results, SpeechResult)
    if own is None:
        return None
    rows = own.utterances
    rate, letters = figures.word_error_rate(rows), figures.character_error_rate(rows)
    paired = None if base is None else figures.wer_difference(rows, base.utterances)
    compared = figures.divergence(rows)
    speed = _one(results, SpeechSpeedResult)
    errors = [one.errors for one in rows if one.errors.words]
    tokens = sum(one.tokens for one in rows)
    return Speech(
        wer=None if rate is None else rate.value,
        wer_low=None if rate is None else rate.low,
        wer_high=None if rate is None else rate.high,
        wer_delta=None if paired is None else paired.value,
        wer_delta_low=None if paired is None else paired.low,
        wer_delta_high=None if paired is None else paired.high,
        cer=None if letters is None else letters.value,
        substitutions=sum(one.substitutions for one in errors),
        deletions=sum(one.deletions for one in errors),
        insertions=sum(one.insertions for one in errors),
        words=sum(one.words for one in errors),
        looped_words=sum(one.errors.looped for one in rows),
        invented_words=figures.invented_words(rows),
        words_on_silence=own.words_on_silence,
        words_on_noise=own.words_on_noise,
        design_effect=figures.design_effect(rows),
        recordings=len(rows),
        same_texts=None if base is None else _same_texts(own, base),
        kld_mean=None if compared is None else compared.value,
        kld_low=None if compared is None else compared.low,
        kld_high=None if compared is None else compared.high,
        top1_agreement=figures.top1_agreement(rows),
        tokens=tokens,
        encode_seconds=None if speed is None else speed.speed.encode_seconds,
        prompt_seconds=None if speed is None else speed.speed.prompt_seconds,
        decode_tokens_per_s=None if speed is None else speed.speed.decode_tokens_per_s,
        real_time_factor=None
        if speed is None
        else speed.speed.real_time_factor(tokens / own.windows, SECONDS_PER_WINDOW),
    )


def speech_memory(results: Mapping[str, Any]) -> Memory | None:
    """The memory of a speech model; None if it was not measured."""
    speed = _one(results, SpeechSpeedResult)
    if speed is None:
        return None
    found = speed.memory
    return Memory(found.predicted_bytes, found.measured_bytes, found.host_bytes, found.device_bytes)


def _same_texts(own: SpeechResult, base: SpeechResult) -> int:
    texts = {one.name: one.text for one in base.utterances}
    return sum(texts.get(one.name) == one.text for one in own.utterances)


def _one(results: Mapping[str, Any], kind: type[Any]) -> Any:
    return next((result for result in results.values() if isinstance(result, kind)), None)
