"""Compares the tokens that two models make of one text. Figures can be compared only if they are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sweep.backends.base import Tokens
from sweep.measure.chat import ChatVocabulary

REACH = 64  # tokens before and after the first different one, among which its word is looked for

MARKERS = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
"""The special tokens of chats, which tasks use."""


class Vocabulary(ChatVocabulary, Protocol):
    """The tokens of a model; see Backend."""

    n_vocab: int

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens: ...

    def piece(self, token: int, *, special: bool = False) -> bytes: ...


@dataclass(frozen=True)
class Difference:
    """The first word that two vocabularies split differently, with the tokens that each makes of it."""

    word: str
    first: tuple[int, ...]
    second: tuple[int, ...]

    def describe(self, first: str, second: str) -> str:
        """One line for people; `first` and `second` are the names of the two."""
        return f"{self.word[:80]!r} is {_listed(self.first)} in {first} and {_listed(self.second)} in {second}"


def difference(first: Vocabulary, second: Vocabulary, text: str, *, parse_special: bool = False) -> Difference | None:
    """Where two vocabularies first make different tokens of a text; None if all tokens are the same."""
    of_first, of_second = (one.tokenize(text, add_special=True, parse_special=parse_special) for one in (first, second))
    return first_difference(first, of_first, of_second, second)


def first_difference(
    vocabulary: Vocabulary, first: Tokens, second: Tokens, other: Vocabulary | None = None
) -> Difference | None:
    """Where two sequences of tokens, int32 (n,), first differ; None if they are the same.

    `vocabulary` is that of `first`; `other` is that of `second`, by default the same.
    """
    if np.array_equal(first, second):
        return None
    shared = min(len(first), len(second))
    unequal = np.flatnonzero(first[:shared] != second[:shared])
    at = int(unequal[0]) if len(unequal) else shared
    pieces = [
        [one.piece(int(token), special=True) for token in stream[at : at + REACH]]
        for one, stream in ((vocabulary, first), (other or vocabulary, second))
    ]
    before = b"".join(vocabulary.piece(int(token), special=True) for token in first[max(0, at - REACH) : at])
    after = max((b"".join(own) for own in pieces), key=len)
    start = len(before) if after[:1].isspace() else _word_start(before)
    end = _word_end(after)
    word = (before[start:] + after[:end]).decode(errors="replace").strip()
    ids = [
        tuple(int(token) for token in stream[at : at + _count(own, end)])
        for own, stream in zip(pieces, (first, second), strict=True)
    ]
    return Difference(word, ids[0], ids[1])


def _word_start(before: bytes) -> int:
    """The first byte of the word that `before` ends in; its length if it ends with a blank."""
    return max((before.rfind(blank) + 1 for blank in b" \n\t\r"), default=0)


def _word_end(after: bytes) -> int:
    """The first byte after the first word of `after`, which may begin with blanks."""
    begins = len(after) - len(after.lstrip())
    return next((i for i in range(begins, len(after)) if after[i : i + 1].isspace()), len(after))


def _count(pieces: list[bytes], length: int) -> int:
    """How many of `pieces` hold the first `length` bytes."""
    ends = np.cumsum([len(piece) for piece in pieces])
    return int(np.searchsorted(ends, length)) + 1 if len(ends) else 0


def _listed(tokens: tuple[int, ...]) -> str:
    if not tokens:
        return "no token"
    shown = ", ".join(map(str, tokens[:6])) + (", ..." if len(tokens) > 6 else "")
    return f"{len(tokens)} token{'s' if len(tokens) > 1 else ''} ({shown})"
