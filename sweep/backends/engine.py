"""The Engine protocol, which scoring and generation use: sequences in a KV cache, tokens in, log-probabilities out.

Sequences are numbered from 0. A token that belongs to several sequences is computed once. The position of a token is
its place in its sequence. A token below 0 is a row of an image's embeddings (see prompt_images).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sweep.backends.trie import EngineStep


class Engine(Protocol):
    """An engine with an empty cache.

    `n_batch` is the largest number of tokens per call. `copies_states` (recurrent models): sequences can only be
    continued, removed, or copied as a whole.
    """

    n_batch: int
    copies_states: bool

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        """Copy `source`, or its first `length` tokens, to the empty sequence `target`."""
        ...

    def cut(self, sequence: int, length: int = 0) -> None:
        """Remove all but the first `length` tokens. With `copies_states`, `length` must be 0."""
        ...

    def clear(self) -> None:
        """Remove every sequence."""
        ...

    def log_probs(self, step: EngineStep) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Compute the tokens of `step`. The caller has already made its copies and cuts.

        For each of the k picks of the step: its log-probability in nats, float64 (k,), and whether it is the most
        probable token, bool (k,).
        """
        ...

    def logits(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Compute n tokens as `greedy` does. Returns the logits (m, n_vocab) after the m tokens marked in `outputs`.

        The array is valid until the next call.
        """
        ...

    def greedy(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
    ) -> list[int]:
        """Compute n tokens, each of one sequence; all arguments have shape (n,).

        Returns the most probable next token after each token that is marked in `outputs`.
        """
        ...
