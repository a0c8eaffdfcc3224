"""Computes the logits of continuations, request by request; what a request shares with the next one is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sweep.backends.base import ScoreRequest
from sweep.backends.engine import Engine

SEQUENCES = 2
_SHARED, _OWN = range(SEQUENCES)  # the prefix that the next request shares, and the whole request


def continuation_logits(engine: Engine, requests: Sequence[ScoreRequest]) -> Iterator[NDArray[np.float32]]:
    """See Backend. `engine` is empty and has room for SEQUENCES sequences of the longest request.

    Sequences are only copied as a whole, which is exact with recurrent states too.
    """
    paths = [request.context + request.continuation[:-1] for request in requests]
    held = 0
    for i, (request, path) in enumerate(zip(requests, paths, strict=True)):
        before = len(request.context) - 1  # every token from here on gives logits
        kept = min(_common(path, paths[i + 1]) if i + 1 < len(paths) else 0, before)
        if kept > held:
            _compute(engine, path, held, kept, _SHARED, before)
            held = kept
        if held:
            engine.copy(_SHARED, _OWN)
        yield _compute(engine, path, held, len(path), _OWN, before)
        engine.cut(_OWN)
        if kept < held:
            kept = 0 if engine.copies_states else kept
            engine.cut(_SHARED, kept)
            held = kept


def _compute(
    engine: Engine, path: tuple[int, ...], start: int, end: int, sequence: int, before: int
) -> NDArray[np.float32]:
    """Compute tokens start .. end - 1; returns a copy of the logits of those from `before` on."""
    parts = []
    for first in range(start, end, engine.n_batch):
        places = np.arange(first, min(end, first + engine.n_batch))
        tokens = np.array(path[places[0] : places[-1] + 1], np.int32)
        parts.append(engine.logits(tokens, places, np.full(len(tokens), sequence, np.int32), places >= before).copy())
    return np.concatenate(parts)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Number of tokens in the common prefix."""
    n = min(len(one), len(other))
    return next((i for i in range(n) if one[i] != other[i]), n)
