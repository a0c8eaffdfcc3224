"""Reads and writes the reference file: the reference model's next-token distributions, in a compact form.

Every variant is compared with this file. It has one row per scored position, in order. With a vocabulary of at most
FULL_VOCABULARY tokens a row holds every log-probability as float32. Otherwise it is a SAMPLED_ROW (sampling.py), which
takes 3.4 % of the bytes of llama.cpp's base file at a vocabulary of 151,936.

Format, little endian: MAGIC, the length of the header (uint32), the header (JSON), zeros up to a multiple of 64 bytes,
the rows. `open_reference` also opens llama.cpp's base files (basefile.py).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.measure import basefile
from sweep.measure.divergence import DivergenceFunction, full_divergence, sampled_divergence
from sweep.measure.perplexity import Windows
from sweep.measure.rowfile import RowFile
from sweep.measure.sampling import SAMPLED_ROW, TAIL, sample_rows
from sweep.measure.token_streams import Vocabulary

FULL_VOCABULARY = 2048
MAGIC = b"BSWPREF2"
MAX_HEADER = 1 << 16
MAKE_AGAIN = "make it again; if it is in a workspace, remove it, and the next run makes it again"


class Distributions(Protocol):
    """The interface of a reference file: its shape, its rows, and the function that compares logits with them."""

    path: Path

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_ctx(self) -> int: ...

    @property
    def first(self) -> int: ...

    @property
    def windows(self) -> int: ...

    @property
    def seed(self) -> int | None:
        """The random seed of the sampled rows; None if the rows are not sampled."""
        ...

    @property
    def model(self) -> str | None:
        """The name of the reference model's file; None if the format does not store it."""
        ...

    @property
    def divergence(self) -> DivergenceFunction: ...

    def rows(self, window: int, start: int, n: int) -> NDArray: ...

    def require(self, windows: Windows, n_vocab: int, vocabulary: Vocabulary | None = None) -> None: ...


@dataclass(frozen=True)
class ReferenceHeader:
    n_vocab: int
    n_ctx: int
    first: int
    windows: int
    tokens_sha256: str
    model: str
    seed: int

    @property
    def rows_each(self) -> int:
        return self.n_ctx - 1 - self.first

    @property
    def rows(self) -> int:
        return self.windows * self.rows_each

    @property
    def full(self) -> bool:
        return self.n_vocab <= FULL_VOCABULARY

    @property
    def row_bytes(self) -> int:
        return 4 * self.n_vocab if self.full else SAMPLED_ROW.itemsize


class ReferenceWriter(RowFile):
    """Writes a reference; see RowFile.

    The same seed draws the same tail tokens, no matter how the rows are divided among calls of `encode`.
    """

    def __init__(self, path: Path, windows: Windows, *, n_vocab: int, model: str, seed: int = 0) -> None:
        n_windows, n_ctx = windows.tokens.shape
        self.header = ReferenceHeader(n_vocab, n_ctx, windows.first, n_windows, windows.sha256, model, seed)
        head = json.dumps(asdict(self.header)).encode()
        head = _padded(MAGIC + len(head).to_bytes(4, "little") + head)
        super().__init__(path, head, self.header.rows, self.header.row_bytes)

    def encode(
        self,
        at: int,
        logits: NDArray[np.float32],
        normalizers: NDArray[np.float64],
        targets: NDArray[np.integer],
    ) -> NDArray:
        """Rows `at`, `at` + 1, ... of the file for `logits` (n, n_vocab). It is thread-safe.

        `normalizers` (n,) are the log sum exp of the logits, `targets` (n,) the next tokens of the text.
        """
        if self.header.full:
            return (logits - normalizers[:, None]).astype("<f4")
        generator = np.random.Generator(np.random.PCG64(self.header.seed).advance(at * TAIL))
        return sample_rows(logits, normalizers, targets, generator.random((len(logits), TAIL)))


class Reference:
    """A reference file, validated; its rows are memory-mapped, so that processes share the pages that are in memory.

    Raises InputError if the file cannot be read, is not a reference file, or its size does not match its header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise InputError(f"{path}: neither a reference file nor a base file of llama.cpp; {MAKE_AGAIN}")
                length = int.from_bytes(file.read(4), "little")
                raw = file.read(length) if length <= MAX_HEADER else b""
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise InputError(f"{path}: cannot read the reference: {error.strerror}") from error
        self.header = _parse_header(path, raw)
        start = len(_padded(MAGIC + bytes(4) + raw))
        expected = start + self.header.rows * self.header.row_bytes
        if size != expected:
            raise InputError(
                f"{path}: the file has {size} bytes, but by its header it should have {expected}; {MAKE_AGAIN}"
            )
        n = self.header.rows
        kind, shape = (np.dtype("<f4"), (n, self.header.n_vocab)) if self.header.full else (SAMPLED_ROW, (n,))
        self.divergence: DivergenceFunction = full_divergence if self.header.full else sampled_divergence
        self._rows: NDArray = np.memmap(path, mode="r", offset=start, dtype=kind, shape=shape)

    @property
    def n_vocab(self) -> int:
        return self.header.n_vocab

    @property
    def n_ctx(self) -> int:
        return self.header.n_ctx

    @property
    def first(self) -> int:
        return self.header.first

    @property
    def windows(self) -> int:
        return self.header.windows

    @property
    def seed(self) -> int | None:
        return None if self.header.full else self.header.seed

    @property
    def model(self) -> str | None:
        return self.header.model or None

    def rows(self, window: int, start: int, n: int) -> NDArray:
        """Rows of positions `start` .. `start` + n - 1 of a window: float32 (n, n_vocab) or SAMPLED_ROW (n,).

        Raises InputError if sampled rows contain tokens outside the vocabulary.
        """
        at = window * self.header.rows_each + start - self.header.first
        rows = self._rows[at : at + n]
        if not self.header.full:
            highest = max(int(rows[kind].max(initial=0)) for kind in ("head_tokens", "tail_tokens"))
            if highest >= self.header.n_vocab:
                raise InputError(f"{self.path}: the reference's rows are damaged (token {highest}); {MAKE_AGAIN}")
        return rows

    def require(self, windows: Windows, n_vocab: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise InputError unless this reference was made from the same tokens and a vocabulary of the same size.

        The file holds only a hash of its tokens, so the message cannot name the first one that is different.
        """
        basefile.require_same_vocabulary(self.path, self.header.n_vocab, n_vocab)
        if self.header.tokens_sha256 != windows.sha256:
            raise InputError(
                f"{self.path}: the reference was made from another text, context or tokenizer; {MAKE_AGAIN}"
            )


def open_reference(path: Path) -> Distributions:
    """Open a reference file of this program or a base file of llama.cpp; the first bytes say which it is.

    Raises InputError if it is neither, or if it is damaged.
    """
    return basefile.BaseFile(path) if basefile.is_base_file(path) else Reference(path)


def _parse_header(path: Path, raw: bytes) -> ReferenceHeader:
    try:
        header = ReferenceHeader(**json.loads(raw))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its header is damaged; {MAKE_AGAIN}") from error
    numbers = (header.n_vocab, header.n_ctx, header.windows)
    sound = all(isinstance(n, int) and 0 < n < 1 << 31 for n in numbers) and isinstance(header.first, int)
    sound = sound and isinstance(header.seed, int) and header.seed >= 0
    if not sound or not 0 <= header.first < header.n_ctx - 1:
        raise InputError(f"{path}: its header is damaged; {MAKE_AGAIN}")
    return header


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)
