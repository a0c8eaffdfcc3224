"""Samples of a calibration text: their number and places, and texts that are too short."""

from __future__ import annotations

import itertools

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import presets
from converters.errors import InputError
from int8.calibration_text import FEWEST_TOKENS, SAMPLES, samples

MICRO = presets.builtin_models()["micro"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MICRO.directory)


@pytest.fixture(scope="module")
def text() -> str:
    return MICRO.calibration.read_text(encoding="utf-8")


def test_samples_are_spread_over_the_text_and_do_not_overlap(tokenizer: PreTrainedTokenizerBase, text: str):
    ids = tokenizer(text, verbose=False)["input_ids"]
    found = samples(tokenizer, text, "a text", 7, 100)
    assert found.shape == (7, 100)
    starts = [next(i for i in range(0, len(ids), 100) if ids[i : i + 100] == row.tolist()) for row in found]
    assert starts[0] == 0
    assert starts[-1] > len(ids) * 0.8
    assert all(later - earlier >= 100 for earlier, later in itertools.pairwise(starts))


def test_the_default_is_the_published_setting_limited_by_the_text(tokenizer: PreTrainedTokenizerBase, text: str):
    there = len(tokenizer(text, verbose=False)["input_ids"]) // 256
    assert samples(tokenizer, text, "a text").shape == (min(there, SAMPLES), 256)
    assert samples(tokenizer, text, "a text", length=16).shape == (SAMPLES, 16)


def test_the_tokenizers_defaults_add_no_special_tokens_to_samples(tokenizer: PreTrainedTokenizerBase):
    found = samples(tokenizer, "one two three four five six seven eight nine ten", "a text", 1, 8)
    assert found[0].tolist() == tokenizer("one two three four five six seven eight nine ten")["input_ids"][:8]


@pytest.mark.parametrize("count", [None, 1, 50])
def test_a_text_that_is_too_short_is_rejected_by_name(tokenizer: PreTrainedTokenizerBase, count: int | None):
    for short in ("", "a few words", "x " * 60):
        with pytest.raises(InputError, match=r"mine\.txt: too short"):
            samples(tokenizer, short, "mine.txt", count, 128)


def test_the_shortest_text_accepted_without_a_number_of_samples(tokenizer: PreTrainedTokenizerBase, text: str):
    ids = tokenizer(text, verbose=False)["input_ids"]
    enough = tokenizer.decode(ids[: FEWEST_TOKENS + 300])
    assert samples(tokenizer, enough, "a text").numel() >= FEWEST_TOKENS
    with pytest.raises(InputError, match="too short to calibrate with"):
        samples(tokenizer, tokenizer.decode(ids[: FEWEST_TOKENS // 2]), "a text")
    assert samples(tokenizer, tokenizer.decode(ids[: FEWEST_TOKENS // 2]), "a text", 2).shape == (2, 256)
