"""A backend whose tokens are letters and whose answers are fixed: what lm-eval asks and is told, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from images.preprocessing import Preprocessing
from sweep.backends.base import Generation, GenerationRequest, Score, ScoreRequest

END, BOS = 0, 1
SPECIAL = {END: "<end>", BOS: "<bos>"}


class LettersBackend:
    """Scores a continuation by its letters, and generates `said` after every prompt. It remembers all requests."""

    eos_id, bos_id, prefix_id, end_ids = END, BOS, END, frozenset({END})
    n_vocab, load_seconds = 0x110000, 0.0

    def __init__(
        self,
        said: str = "so",
        *,
        max_length: int = 2000,
        add_bos: bool = False,
        chat_template: str | None = None,
        preprocessing: Preprocessing | None = None,
        score: Callable[[str], float] = lambda text: -sum(map(ord, text)) / 100,
    ) -> None:
        self.said, self.max_length, self.add_bos, self.chat_template = said, max_length, add_bos, chat_template
        self.preprocessing = preprocessing
        self._score = score
        self.scored: list[list[ScoreRequest]] = []
        self.asked: list[GenerationRequest] = []

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Any:
        tokens = [BOS] * (add_special and self.add_bos)
        while text:
            special = next((t for t, name in SPECIAL.items() if parse_special and text.startswith(name)), None)
            tokens.append(ord(text[0]) if special is None else special)
            text = text[1 if special is None else len(SPECIAL[special]) :]
        return np.array(tokens, np.int32)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return "".join(SPECIAL.get(t, chr(t)) for t in tokens if special or t not in SPECIAL)

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Any = None) -> list[Score]:
        self.scored.append(list(requests))
        for done in range(1, len(requests) + 1):
            if progress is not None:
                progress(done, len(requests))
        texts = [self.detokenize(request.continuation, special=True) for request in requests]
        return [Score(self._score(text), text.strip().startswith("b")) for text in texts]

    def generate(self, requests: Sequence[GenerationRequest], progress: Any = None) -> list[Generation]:
        self.asked += requests
        if progress is not None:
            progress(len(requests), len(requests))
        said = self.tokenize(self.said, parse_special=True).tolist()
        cut = [tuple(said[: request.max_new_tokens]) for request in requests]
        return [Generation(tokens, self.detokenize(tokens)) for tokens in cut]
