"""Word errors against a plain edit distance, Whisper's normalizers, and runs of repeated words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from speech.normalizer import normalizer_words, open_normalizer
from speech.word_errors import looped_words, utterance_errors


def distance(a: list[str], b: list[str]) -> int:
    """Levenshtein's distance, by its definition."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def test_errors_are_the_edit_distance() -> None:
    rng = random.Random(0)
    for _ in range(200):
        reference = [rng.choice("abcd") for _ in range(rng.randint(1, 12))]
        hypothesis = [rng.choice("abcd") for _ in range(rng.randint(0, 12))]
        found = utterance_errors(" ".join(reference), " ".join(hypothesis))
        assert found.errors == distance(reference, hypothesis)
        assert found.words == len(reference)
        assert found.insertions - found.deletions == len(hypothesis) - len(reference)
        assert found.character_errors == distance(list(" ".join(reference)), list(" ".join(hypothesis)))


def test_words_for_an_empty_transcript_are_insertions() -> None:
    found = utterance_errors("", "thank you for watching")
    assert (found.words, found.insertions, found.errors) == (0, 4, 4)
    assert utterance_errors("", "").errors == 0
    assert utterance_errors("a b", "").deletions == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b c d", 0),
        ("no no", 0),  # people say a word twice
        ("no no no", 1),
        ("thank you thank you thank you thank you", 4),
        ("a " + "one two three four five six " * 5 + "b", 18),
        ("a a a b b b", 2),
        ("", 0),
    ],
)
def test_loops_are_counted_from_the_third_time_on(text: str, words: int) -> None:
    assert looped_words(text.split()) == words
    assert utterance_errors("x", text).looped == words
    assert utterance_errors(text or "x", text).looped == 0  # somebody really said so


def test_the_normalizers_are_those_of_whisper(tmp_path: Path) -> None:
    english = open_normalizer(tmp_path, "en")
    assert english("Mr. Smith's two dogs aren't here, OK?") == english("mister smith is 2 dogs are not here ok")
    assert english("colour") != english("color")
    assert "without its table" in normalizer_words(tmp_path, "en")
    (tmp_path / "normalizer.json").write_text('{"colour": "color"}')
    assert open_normalizer(tmp_path, "en")("colour") == "color"
    german = open_normalizer(tmp_path, "de")
    assert german("Zwei Straßen, bitte!").strip() == "zwei straßen bitte"
    assert normalizer_words(tmp_path, "de") == "Whisper's basic normalizer"
