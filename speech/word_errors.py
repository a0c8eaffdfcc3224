"""Word and character errors of a transcript, by jiwer after Whisper's text normalizer, and runs of repeated words.

WER = (substitutions + deletions + insertions) / words of the reference. Whisper's typical failure on hard audio is a
loop: it repeats a phrase until its window of tokens is full, so words in such runs are counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from speech.missing import require

LONGEST_PHRASE = 6  # words of a phrase that repeats
FEWEST_REPEATS = 3  # of a phrase right after itself, beyond which it is a loop: people repeat a word twice


@dataclass(frozen=True)
class UtteranceErrors:
    """The counts of one utterance, after normalization. `words` and `characters` are those of the reference,
    `looped` the words of the hypothesis that only repeat the phrase before them."""

    words: int
    substitutions: int
    deletions: int
    insertions: int
    characters: int
    character_errors: int
    looped: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def utterance_errors(reference: str, hypothesis: str) -> UtteranceErrors:
    """The errors of a hypothesis, both texts normalized. An empty reference has no words: all are insertions."""
    reference, hypothesis = (" ".join(text.split()) for text in (reference, hypothesis))
    looped = max(0, looped_words(hypothesis.split()) - looped_words(reference.split()))
    if not reference.split():
        words = len(hypothesis.split())
        return UtteranceErrors(0, 0, 0, words, 0, len(hypothesis), looped)
    jiwer = require("jiwer")
    found = jiwer.process_words(reference, hypothesis)
    letters = jiwer.process_characters(reference, hypothesis)
    wrong = letters.substitutions + letters.deletions + letters.insertions
    return UtteranceErrors(
        found.hits + found.substitutions + found.deletions,
        found.substitutions,
        found.deletions,
        found.insertions,
        letters.hits + letters.substitutions + letters.deletions,
        wrong,
        looped,
    )


def looped_words(words: list[str]) -> int:
    """The number of words that belong to the third or a later occurrence in a row of a phrase of up to LONGEST_PHRASE
    words."""
    total, at = 0, 0
    while at < len(words):
        best = 0
        for size in range(1, LONGEST_PHRASE + 1):
            phrase, repeats = words[at : at + size], 1
            while len(phrase) == size and words[at + repeats * size : at + (repeats + 1) * size] == phrase:
                repeats += 1
            if repeats >= FEWEST_REPEATS and repeats * size > best:
                best, extra = repeats * size, (repeats - FEWEST_REPEATS + 1) * size
        if best:
            total += extra
            at += best
        else:
            at += 1
    return total
