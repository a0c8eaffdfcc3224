"""Speech results of a model: for every recording its transcript, word errors and divergence; and figures over all of
them. WER is a ratio of sums, so intervals come from resampling whole recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech.word_errors import UtteranceErrors
from sweep.statistics import bootstrap_means, percentile_interval


@dataclass(frozen=True)
class UtteranceResult:
    """A recording. `text` is what the model wrote, `tokens` the tokens that were compared with the reference along its
    transcript: `kld` is the sum of their KL divergence in nats, `same` on how many of them both find the same token
    most probable. Both are None for the reference."""

    name: str
    text: str
    errors: UtteranceErrors
    tokens: int
    kld: float | None = None
    same: int | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums with its 95 % interval from resampling recordings; without an interval for a single one."""

    value: float
    low: float | None = None
    high: float | None = None


Array = NDArray[np.float64]


def ratio(numerators: Sequence[float] | Array, denominators: Sequence[float] | Array) -> Ratio | None:
    """Sum of `numerators` (n,) over the sum of `denominators` (n,) of n recordings; None if the latter is 0."""
    over, under = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not under.sum():
        return None
    value = float(over.sum() / under.sum())
    if len(over) < 2:
        return Ratio(value)
    low, high = percentile_interval(_resampled(over, under), len(over))
    return Ratio(value, low, high)


def _resampled(over: Array, under: Array) -> Array:
    above, below = bootstrap_means([over, under])
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Array = above / below
    return values


def word_error_rate(utterances: Sequence[UtteranceResult]) -> Ratio | None:
    """WER over the recordings with a transcript."""
    spoken = _spoken(utterances)
    return ratio([one.errors.errors for one in spoken], [one.errors.words for one in spoken])


def character_error_rate(utterances: Sequence[UtteranceResult]) -> Ratio | None:
    """CER over the recordings with a transcript."""
    spoken = _spoken(utterances)
    return ratio([one.errors.character_errors for one in spoken], [one.errors.characters for one in spoken])


def wer_difference(own: Sequence[UtteranceResult], base: Sequence[UtteranceResult]) -> Ratio | None:
    """WER of `own` minus that of `base`, paired by recording; None if they are not the same recordings."""
    mine, theirs = _spoken(own), _spoken(base)
    if [one.name for one in mine] != [one.name for one in theirs]:
        return None
    differences = [a.errors.errors - b.errors.errors for a, b in zip(mine, theirs, strict=True)]
    return ratio(differences, [one.errors.words for one in mine])


def divergence(utterances: Sequence[UtteranceResult]) -> Ratio | None:
    """Mean KL divergence in nats per token; None for the reference."""
    compared = [one for one in utterances if one.kld is not None and one.tokens]
    return ratio([one.kld or 0.0 for one in compared], [one.tokens for one in compared])


def top1_agreement(utterances: Sequence[UtteranceResult]) -> float | None:
    """The share of tokens for which both models find the same token most probable; None for the reference."""
    compared = [one for one in utterances if one.same is not None]
    found = ratio([one.same or 0 for one in compared], [one.tokens for one in compared])
    return None if found is None else found.value


def design_effect(utterances: Sequence[UtteranceResult]) -> float | None:
    """The variance of the WER from resampling recordings, relative to that of independent words: how many words count
    as one. None without errors or with a single recording."""
    spoken = _spoken(utterances)
    errors, words = (np.array([getattr(one.errors, name) for one in spoken], float) for name in ("errors", "words"))
    if len(spoken) < 2 or not 0 < errors.sum() < words.sum():
        return None
    rate = errors.sum() / words.sum()
    return float(np.nanvar(_resampled(errors, words)) / (rate * (1 - rate) / words.sum()))


def invented_words(utterances: Sequence[UtteranceResult]) -> int:
    """Words in transcripts of recordings in which nothing is said."""
    return sum(one.errors.insertions for one in utterances if not one.errors.words)


def _spoken(utterances: Sequence[UtteranceResult]) -> list[UtteranceResult]:
    return [one for one in utterances if one.errors.words]
