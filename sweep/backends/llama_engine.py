"""An Engine that uses a context of llama.cpp.

A token of a llama.cpp batch can belong to several sequences, and sequences share cells, so copying a sequence copies no
cell. A recurrent state is copied when one of the sequences that share it is continued. A batch has either tokens or
embeddings of images, so a call with both is decoded in turns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from converters.llamacpp.batch import make_batch, make_embedding_batch
from converters.llamacpp.model import Context
from sweep.backends.logits import log_normalizers
from sweep.backends.prompt_images import PromptImages, RotaryPositions
from sweep.backends.trie import EngineStep

Ints = NDArray[np.int64]


class LlamaEngine:
    """See Engine. `context` is empty and large enough for all sequences, of at most `longest` tokens each.

    `images` are those of the prompts, if there are any. Then positions in llama.cpp are M-RoPE's.
    """

    def __init__(self, context: Context, images: PromptImages | None = None, longest: int = 0) -> None:
        self._context = context
        self._images = images
        self._rotary = None if images is None else RotaryPositions(images, context.options.n_seq_max, longest)
        self.n_batch = context.n_batch
        self.copies_states = context.model.is_recurrent

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        end = length
        if self._rotary is not None:
            self._rotary.copy(source, target)
            end = None if length is None else self._rotary.at(source, length)
        self._context.copy_sequence(source, target, None if self.copies_states else end)

    def cut(self, sequence: int, length: int = 0) -> None:
        self._context.remove(sequence, length if self._rotary is None else self._rotary.at(sequence, length))

    def clear(self) -> None:
        self._context.clear()

    def log_probs(self, step: EngineStep) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        logits = self._decode(step.tokens, step.positions, step.sequences, step.outputs, step.counts)
        normalizers = log_normalizers(logits)
        values = logits[step.pick_rows, step.pick_tokens].astype(np.float64) - normalizers[step.pick_rows]
        return values, logits.argmax(axis=1)[step.pick_rows] == step.pick_tokens

    def logits(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        return self._decode(tokens, positions, sequences, outputs)

    def greedy(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
    ) -> list[int]:
        best: list[int] = self._decode(tokens, positions, sequences, outputs).argmax(axis=1).tolist()
        return best

    def _decode(
        self,
        tokens: NDArray[np.integer],
        positions: NDArray[np.integer],
        sequences: NDArray[np.integer],
        outputs: NDArray[np.bool_],
        counts: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        if self._images is None or self._rotary is None:
            return self._context.decode(tokens, positions, sequences, outputs, counts)
        counts = np.ones(len(tokens), np.int32) if counts is None else counts
        places = self._rotary.take(tokens, positions, sequences, counts)
        row_of = np.cumsum(outputs) - 1
        found = np.empty((int(np.count_nonzero(outputs)), self._context.model.n_vocab), np.float32)
        for turn in _turns(tokens < 0, sequences, counts, self._context.options.n_seq_max):
            own = sequences[np.repeat(turn, counts)]
            if tokens[turn][0] < 0:
                rows = self._images.embeddings(tokens[turn])
                batch = make_embedding_batch(rows, places[:, turn], own, outputs[turn], counts[turn])
            else:
                batch = make_batch(tokens[turn], places[0, turn], own, outputs[turn], counts[turn])
            found[row_of[turn & outputs]] = self._context.run(batch)
        return found


def _turns(
    image: NDArray[np.bool_], sequences: NDArray[np.integer], counts: NDArray[np.integer], n_sequences: int
) -> Iterator[NDArray[np.bool_]]:
    """The tokens (n,) of a call in turns that are all text or all images, as few as the order in sequences allows.

    `image` says which tokens are of images; `sequences` and `counts` as in EngineStep. A token is in the turn of the
    token before it in its sequence, or in the next one if the kind changes.
    """
    ends = np.cumsum(counts)
    owners = sequences[ends - counts]
    cuts = np.flatnonzero((np.diff(owners) != 0) | (np.diff(image) != 0)) + 1
    turn_of = np.empty(len(image), np.int64)  # even turns are text
    reached = np.full(n_sequences, -1)  # the turn of the last token of each sequence
    for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(image)], strict=True):
        before = max(int(reached[owners[first]]), 0)
        turn = before + ((before % 2 == 1) != bool(image[first]))
        turn_of[first:end] = turn
        reached[sequences[ends[first] - counts[first] : ends[end - 1]]] = turn
    for turn in np.unique(turn_of):
        yield turn_of == turn
