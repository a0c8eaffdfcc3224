"""Reads and writes llama.cpp's file of a base model's log-probabilities (`llama-perplexity --kl-divergence-base`).

Format, little endian (source: llama.cpp, tools/perplexity):

- the eight bytes `_logits_`;
- int32 n_ctx, n_vocab and number of chunks;
- the int32 tokens of all chunks;
- one row per scored position: float32 scale, float32 minimum log-probability, then a uint16 per token: its
  log-probability as a number of steps of `scale` above the minimum. An odd vocabulary has one more uint16 as padding.

A token whose logit is 16 or more below the largest one gets the minimum. The probabilities of a row with a peaked
distribution therefore sum to more than one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.measure.divergence import DivergenceFunction, base_file_divergence
from sweep.measure.perplexity import Windows
from sweep.measure.rowfile import RowFile
from sweep.measure.token_streams import Vocabulary, first_difference

MAGIC = b"_logits_"
RANGE = np.float32(16)  # nats below the largest logit; lower log-probabilities are clipped
STEPS = np.float32(65535)
MAKE_AGAIN = "make it again with llama-perplexity --kl-divergence-base"


def base_row(n_vocab: int) -> np.dtype[np.void]:
    """The dtype of the row of one position."""
    return np.dtype([("scale", "<f4"), ("least", "<f4"), ("steps", "<u2", 2 * ((n_vocab + 1) // 2))])


def is_base_file(path: Path) -> bool:
    """Whether the file begins like a base file; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class BaseFileWriter(RowFile):
    """Writes a base file; see RowFile. Raises InputError for windows with a stride, which a base file cannot hold."""

    def __init__(self, path: Path, windows: Windows, *, n_vocab: int) -> None:
        n_windows, n_ctx = windows.tokens.shape
        if windows.first != n_ctx // 2:
            raise InputError(f"{path}: a base file of llama.cpp needs windows without a stride")
        self._row = base_row(n_vocab)
        head = MAGIC + np.array([n_ctx, n_vocab, n_windows], "<i4").tobytes() + windows.text.astype("<i4").tobytes()
        super().__init__(path, head, n_windows * windows.rows_each, self._row.itemsize)

    def encode(
        self,
        at: int,
        logits: NDArray[np.float32],
        normalizers: NDArray[np.float64],
        targets: NDArray[np.integer],
    ) -> NDArray:
        """Rows of the file, base_row (n,), from `logits` (n, n_vocab) and their log-normalizers (n,).

        `at` and `targets` are not used: a base file does not store them.
        """
        n, n_vocab = logits.shape
        rows = np.zeros(n, self._row)
        for row, logit, z in zip(rows, logits, normalizers, strict=True):
            largest = logit.max()
            least = np.maximum(logit.min(), largest - RANGE)
            row["scale"] = scale = (largest - least) / STEPS
            row["least"] = least - np.float32(z)
            if scale:
                row["steps"][:n_vocab] = np.rint(np.maximum(logit - least, 0) * (1 / scale))
        return rows


class BaseFile:
    """A base file, validated; its rows are memory-mapped.

    The tokens in the file are those of the text, before a BOS token replaces the first token of each chunk. Raises
    InputError if the file cannot be read, is not a base file, or its size does not match its header.
    """

    seed: int | None = None  # the rows are not sampled
    model: str | None = None  # the format does not store the model's name

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                magic, raw = file.read(len(MAGIC)), file.read(12)
                size = os.fstat(file.fileno()).st_size
                if magic != MAGIC:
                    raise InputError(f"{path}: not a base file of llama.cpp; {MAKE_AGAIN}")
                if len(raw) < 12:
                    raise InputError(f"{path}: the file ends within its header; {MAKE_AGAIN}")
                self.n_ctx, self.n_vocab, self.windows = (int(n) for n in np.frombuffer(raw, "<i4"))
                if min(self.n_ctx, self.n_vocab, self.windows) < 1 or self.n_ctx < 4:
                    raise InputError(f"{path}: its header is damaged; {MAKE_AGAIN}")
                self.first = self.n_ctx // 2
                kind = base_row(self.n_vocab)
                n_tokens, n = self.n_ctx * self.windows, self.windows * (self.n_ctx - 1 - self.first)
                start = len(MAGIC) + 12 + 4 * n_tokens
                expected = start + n * kind.itemsize
                if size != expected:
                    raise InputError(
                        f"{path}: the file has {size} bytes, but by its header it should have {expected}; {MAKE_AGAIN}"
                    )
                tokens = np.frombuffer(file.read(4 * n_tokens), "<i4")
        except OSError as error:
            raise InputError(f"{path}: cannot read the reference: {error.strerror}") from error
        self.divergence: DivergenceFunction = base_file_divergence
        self._tokens = tokens.reshape(self.windows, self.n_ctx)
        self._rows: NDArray = np.memmap(path, mode="r", offset=start, dtype=kind, shape=(n,))

    def rows(self, window: int, start: int, n: int) -> NDArray:
        """Rows of positions `start` .. `start` + n - 1 of a window, base_row (n,).

        Raises InputError if a scale or a minimum log-probability is not finite.
        """
        at = window * (self.n_ctx - 1 - self.first) + start - self.first
        rows = self._rows[at : at + n]
        if not (np.isfinite(rows["scale"]).all() and np.isfinite(rows["least"]).all()):
            raise InputError(f"{self.path}: the rows of chunk {window} are not finite numbers; {MAKE_AGAIN}")
        return rows

    def require(self, windows: Windows, n_vocab: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise InputError unless this file was made from the same tokens and a vocabulary of the same size.

        With the model's `vocabulary`, the message names the first word that is different.
        """
        require_same_vocabulary(self.path, self.n_vocab, n_vocab)
        if windows.first == self.first and np.array_equal(windows.text, self._tokens):
            return
        found = None
        if vocabulary is not None:
            known = np.clip(self._tokens.ravel(), 0, n_vocab - 1)  # a damaged file can have any token
            found = first_difference(vocabulary, known, windows.text.ravel())
        where = "" if found is None else f" ({found.describe('the file', 'this model')})"
        raise InputError(
            f"{self.path}: the base file was made from another text, context or tokenizer{where}; {MAKE_AGAIN}"
        )


def require_same_vocabulary(path: Path, of_reference: int, of_model: int) -> None:
    """Raise InputError if the reference's vocabulary has another size than that of the model to compare with it."""
    if of_reference != of_model:
        raise InputError(
            f"{path}: the reference has a vocabulary of {of_reference} tokens, this model of {of_model}; "
            "divergence can only compare variants of the same model"
        )
