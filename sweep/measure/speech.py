"""Measures a speech model on recordings: the exact greedy transcript, and the distributions along a known one.

The transcript of the reference is given to a variant token by token (teacher forcing) in one pass. It predicts the same
tokens as long as its most probable token is the next one, so only the rest of its own transcript needs further passes:
a guess of several tokens is read at once, and cut back to where the model chooses another one. The result is the text
of plain greedy decoding. Settings are deterministic: no timestamps, windows of 30 s in order, no fallback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from speech.decoding import Decoding
from sweep.backends.speech_protocol import SpeechBackend, SpeechSession
from sweep.measure.task_options import MeasurementError

GUESS, MOST_GUESSED = 4, 64  # tokens of a guess after a mismatch; each right guess doubles the next one
_LOOK_AHEAD = 8  # tokens of the draft among which a changed token is looked for

Logits = NDArray[np.float32]


@dataclass
class Greedy:
    """Greedy decoding with one checkpoint's rules."""

    decoding: Decoding
    n_vocab: int
    _never: NDArray[np.intp] = field(init=False)
    _never_first: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        self._never = np.array([one for one in self.decoding.never if one < self.n_vocab], np.intp)
        self._never_first = np.array([one for one in self.decoding.never_first if one < self.n_vocab], np.intp)

    def choose(self, row: Logits, first: bool) -> int:
        """The most probable token of a row of logits (n_vocab,) that may come next. Raises MeasurementError."""
        if not np.isfinite(row).all():
            raise MeasurementError("logits of this window are not finite (nan): check the weights of this file")
        allowed = row.copy()
        allowed[self._never] = -np.inf
        if first:
            allowed[self._never_first] = -np.inf
        return int(allowed.argmax())

    @property
    def most_tokens(self) -> int:
        """Tokens of a transcript without its prompt."""
        return self.decoding.longest - len(self.decoding.prompt)

    def transcript(self, session: SpeechSession, rows: Logits, draft: Sequence[int]) -> tuple[int, ...]:
        """The transcript: its tokens with the end, if it fits.

        The session has read the prompt and `draft`; `rows` (1 + len(draft), n_vocab) are the logits from the last token
        of the prompt on.
        """
        prompt, end, found = len(self.decoding.prompt), self.decoding.end, list[int]()
        for row, guessed in zip(rows, (*draft, None), strict=True):
            found.append(self.choose(row, not found))
            if found[-1] != guessed or found[-1] == end or len(found) >= self.most_tokens:
                break
        guess, guessing = _Draft(draft, len(found) - 1), GUESS
        while found[-1] != end and len(found) < self.most_tokens:
            session.cut(prompt + len(found) - 1)
            ahead = guess.after(found)[: min(guessing, self.most_tokens - len(found))]
            rows, right = session.read([found[-1], *ahead]), 0
            for row, guessed in zip(rows, (*ahead, None), strict=True):
                found.append(self.choose(row, False))
                if found[-1] != guessed or found[-1] == end or len(found) >= self.most_tokens:
                    break
                right += 1
            guessing = min(2 * guessing, MOST_GUESSED) if right == len(ahead) else GUESS
        return tuple(found)


class _Draft:
    """The draft's tokens that probably follow: `at` is the place in it that the transcript has reached."""

    def __init__(self, draft: Sequence[int], at: int) -> None:
        self._draft, self._at = list(draft), at
        self._seen = at

    def after(self, found: Sequence[int]) -> list[int]:
        """The draft's tokens after the last one of the transcript."""
        for token in found[self._seen :]:
            near = self._draft[self._at : self._at + _LOOK_AHEAD]
            self._at += near.index(token) + 1 if token in near else 1
        self._seen = len(found)
        return self._draft[self._at :]


@dataclass(frozen=True)
class WindowTranscript:
    """A window's transcript, and the logits (n, n_vocab) that predict the `n` tokens of the known transcript."""

    tokens: tuple[int, ...]
    logits: Logits


def transcribe(
    backend: SpeechBackend,
    greedy: Greedy,
    windows: Iterator[NDArray[np.float32]],
    known: Sequence[Sequence[int]] | None,
    draft: Sequence[int],
) -> Iterator[WindowTranscript]:
    """The transcripts of the windows of a recording, each (samples,).

    `known` are the transcripts to compare along, one for each window; None: compare along the own one. Then `draft`
    guesses the first one: what is said, as tokens.
    """
    decoding = greedy.decoding
    for number, samples in enumerate(windows):
        session = backend.listen(backend.features(samples))
        given = tuple(draft if number == 0 else ()) if known is None else tuple(known[number])
        given = given[: greedy.most_tokens - 1 if known is None else None]
        rows = session.read([*decoding.prompt, *given])[len(decoding.prompt) - 1 :]
        tokens = greedy.transcript(session, rows, given)
        if known is None and tokens != given:
            session.cut(0)
            rows = session.read([*decoding.prompt, *tokens])[len(decoding.prompt) - 1 :]
        targets = tokens if known is None else given
        yield WindowTranscript(tokens, rows[: len(targets)])
