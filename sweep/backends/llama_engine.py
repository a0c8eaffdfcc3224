"""An Engine that uses a context of llama.cpp.

A token of a llama.cpp batch can belong to several sequences, and sequences share cells, so copying a sequence copies no
cell. A recurrent state is copied when one of the sequences that share it is continued.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converters.llamacpp.model import Context
from sweep.backends.logits import log_normalizers
from sweep.backends.trie import EngineStep


class LlamaEngine:
    """See Engine. `context` is empty and large enough for all sequences."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.n_batch = context.n_batch
        self.copies_states = context.model.is_recurrent

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        self._context.copy_sequence(source, target, None if self.copies_states else length)

    def cut(self, sequence: int, length: int = 0) -> None:
        self._context.remove(sequence, length)

    def clear(self) -> None:
        self._context.clear()

    def log_probs(self, step: EngineStep) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        logits = self._context.decode(step.tokens, step.positions, step.sequences, step.outputs, step.counts)
        normalizers = log_normalizers(logits)
        values = logits[step.pick_rows, step.pick_tokens].astype(np.float64) - normalizers[step.pick_rows]
        return values, logits.argmax(axis=1)[step.pick_rows] == step.pick_tokens

    def greedy(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
    ) -> list[int]:
        best: list[int] = self._context.decode(tokens, positions, sequences, outputs).argmax(axis=1).tolist()
        return best
