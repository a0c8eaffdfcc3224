"""Whisper's text normalizers (transformers has OpenAI's): case, punctuation, and in English also numbers, contractions
and spellings do not count as errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from converters.checkpoint import read_json

SPELLINGS = "normalizer.json"
"""British to American spellings, beside published checkpoints."""

Normalizer = Callable[[str], str]


def open_normalizer(checkpoint: Path, language: str) -> Normalizer:
    """The normalizer for a language ("en"), with the spellings of the checkpoint if it has some. For other languages
    it is the basic one. Raises InputError for a malformed file."""
    if language != "en":
        return BasicTextNormalizer()
    spellings = read_json(checkpoint / SPELLINGS) if (checkpoint / SPELLINGS).is_file() else {}
    return EnglishTextNormalizer(spellings)


def normalizer_words(checkpoint: Path, language: str) -> str:
    """For people: which normalizer `open_normalizer` returns."""
    if language != "en":
        return "Whisper's basic normalizer"
    known = (checkpoint / SPELLINGS).is_file()
    return f"Whisper's English normalizer{'' if known else ', without its table of British spellings'}"
