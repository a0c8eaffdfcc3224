"""What scoring and generating ask of an engine: sequences in a cache, tokens in, the log-probabilities that are wanted.

Sequences are numbered from 0. A token is computed once for all sequences that it belongs to.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sweep.backends.trie import Step


class Engine(Protocol):
    """`n_batch` tokens are computed in a call at most. `copies_states`: sequences can only be continued, forgotten or
    copied whole (recurrent models).
    """

    n_batch: int
    copies_states: bool

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        """The empty `target` becomes the same as `source`, or as its first `length` tokens."""
        ...

    def cut(self, sequence: int, length: int = 0) -> None:
        """Keep the first `length` tokens only. Where states are copied, `length` is 0."""
        ...

    def clear(self) -> None:
        """Forget every sequence."""
        ...

    def log_probs(self, step: Step) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Compute the tokens of `step`; of each of its k picks the log-probability (nats) and whether it is the
        likeliest token, both (k,). Copies and cuts of the step are not done here.
        """
        ...

    def greedy(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        wanted: NDArray[np.bool_],
    ) -> list[int]:
        """Compute n tokens, each of one sequence, shapes (n,); the likeliest next token after each that is `wanted`."""
        ...
