"""llama.cpp's file of a base model's log-probabilities (`llama-perplexity --kl-divergence-base`), read and written.

Format: `_logits_`, int32 n_ctx, n_vocab and number of chunks, the int32 tokens of all chunks, and a row for each scored
position: float32 scale and float32 least log-probability, then for each token a uint16 of steps of `scale` above the
least, and one more where the vocabulary is odd. A token whose logit is 16 or more below the largest gets the least, so
that the rows of a peaked distribution sum to more than one. Little endian. Source: llama.cpp, tools/perplexity.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.measure.divergence import DivergenceOf, from_base
from sweep.measure.perplexity import Windows
from sweep.measure.rowfile import RowFile

MAGIC = b"_logits_"
RANGE = np.float32(16)  # nats below the largest logit that are kept apart
STEPS = np.float32(65535)
MAKE_ANEW = "make it anew with llama-perplexity --kl-divergence-base"


def base_row(n_vocab: int) -> np.dtype[np.void]:
    """The row of one position."""
    return np.dtype([("scale", "<f4"), ("least", "<f4"), ("steps", "<u2", 2 * ((n_vocab + 1) // 2))])


def is_base_file(path: Path) -> bool:
    """Whether it begins as one; False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class BaseFileWriter(RowFile):
    """Writes a base file; see RowFile. Raises InputError for windows that llama-perplexity would not score so."""

    def __init__(self, path: Path, windows: Windows, *, n_vocab: int) -> None:
        n_windows, n_ctx = windows.tokens.shape
        if windows.first != n_ctx // 2:
            raise InputError(f"{path}: llama.cpp's base files are of windows without a stride")
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
        """Rows of logits (n, n_vocab) with log-normalizers (n,); where they stand and what follows does not matter."""
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
    """A base file found whole; rows are mapped. Its tokens are those before any BOS takes the place of the first."""

    seed: int | None = None  # nothing is sampled
    model: str | None = None  # nor is it told what model it is of

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                magic, raw = file.read(len(MAGIC)), file.read(12)
                size = os.fstat(file.fileno()).st_size
                if magic != MAGIC:
                    raise InputError(f"{path}: not a base file of llama.cpp's; {MAKE_ANEW}")
                if len(raw) < 12:
                    raise InputError(f"{path}: it ends within its header; {MAKE_ANEW}")
                self.n_ctx, self.n_vocab, self.windows = (int(n) for n in np.frombuffer(raw, "<i4"))
                if min(self.n_ctx, self.n_vocab, self.windows) < 1 or self.n_ctx < 4:
                    raise InputError(f"{path}: its header is damaged; {MAKE_ANEW}")
                self.first = self.n_ctx // 2
                kind = base_row(self.n_vocab)
                n_tokens, n = self.n_ctx * self.windows, self.windows * (self.n_ctx - 1 - self.first)
                start = len(MAGIC) + 12 + 4 * n_tokens
                expected = start + n * kind.itemsize
                if size != expected:
                    raise InputError(f"{path}: {size} bytes where its header asks for {expected}; {MAKE_ANEW}")
                tokens = np.frombuffer(file.read(4 * n_tokens), "<i4")
        except OSError as error:
            raise InputError(f"{path}: cannot read the reference: {error.strerror}") from error
        self.divergence: DivergenceOf = from_base
        self._tokens = tokens.reshape(self.windows, self.n_ctx)
        self._rows: NDArray = np.memmap(path, mode="r", offset=start, dtype=kind, shape=(n,))

    def rows(self, window: int, start: int, n: int) -> NDArray:
        """Rows of positions `start` .. `start` + n - 1 of a window, base_row (n,).

        Raises InputError where a scale or a least log-probability is not a number.
        """
        at = window * (self.n_ctx - 1 - self.first) + start - self.first
        rows = self._rows[at : at + n]
        if not (np.isfinite(rows["scale"]).all() and np.isfinite(rows["least"]).all()):
            raise InputError(f"{self.path}: the rows of chunk {window} are not numbers; {MAKE_ANEW}")
        return rows

    def require(self, windows: Windows, n_vocab: int) -> None:
        """Raise InputError unless this file is of the very same tokens."""
        same_vocabulary(self.path, self.n_vocab, n_vocab)
        if windows.first != self.first or not np.array_equal(windows.text, self._tokens):
            raise InputError(f"{self.path}: the base file was made of another text or context; {MAKE_ANEW}")


def same_vocabulary(path: Path, of_reference: int, of_model: int) -> None:
    """Raise InputError where a reference has another vocabulary than the model that is to be compared with it."""
    if of_reference != of_model:
        raise InputError(
            f"{path}: the reference has a vocabulary of {of_reference}, this model {of_model}; "
            "divergence needs variants of one model"
        )
