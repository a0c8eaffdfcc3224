"""The reference model's distributions in a compact file, against which every variant's are compared.

One row for each scored position, in order. With at most FULL_VOCABULARY tokens a row holds every log-probability in
float32. Otherwise it holds the HEAD most probable tokens exactly and TAIL tokens drawn with replacement from the rest,
each with a chance in proportion to its probability: enough for an unbiased KL divergence (see divergence.py), and a
thirtieth of what llama.cpp's base file takes at a vocabulary of 151,936.

Format: MAGIC, the header's length (uint32), the header (JSON), zeros up to a multiple of 64, the rows. Little endian.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.measure.perplexity import Windows

FULL_VOCABULARY = 2048
HEAD, TAIL = 1024, 256
MAGIC = b"BSWPREF1"
MAX_HEADER = 1 << 16
MAKE_ANEW = "remove it to have it made anew"
SAMPLED_ROW = np.dtype(
    [
        ("head_tokens", "<u4", HEAD),  # most probable first
        ("head_logprobs", "<f4", HEAD),
        ("tail_tokens", "<u4", TAIL),
        ("tail_logprobs", "<f4", TAIL),
        ("tail_mass", "<f8"),
    ]
)


@dataclass(frozen=True)
class Header:
    n_vocab: int
    n_ctx: int
    first: int
    windows: int
    tokens_sha256: str
    model: str
    seed: int

    @property
    def rows(self) -> int:
        return self.windows * (self.n_ctx - 1 - self.first)

    @property
    def full(self) -> bool:
        return self.n_vocab <= FULL_VOCABULARY

    @property
    def row_bytes(self) -> int:
        return 4 * self.n_vocab if self.full else SAMPLED_ROW.itemsize


def sample_row(logprobs: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.void]:
    """Head and tail of one distribution, float64 (n_vocab,) of log-probabilities, as a SAMPLED_ROW."""
    row = np.zeros((), SAMPLED_ROW)
    head = np.argpartition(-logprobs, HEAD - 1)[:HEAD]
    head = head[np.lexsort((head, -logprobs[head]))]  # ties by token, so that the first is what argmax gives
    weights = np.exp(logprobs)
    weights[head] = 0.0
    cumulative = np.cumsum(weights)
    row["head_tokens"], row["head_logprobs"] = head, logprobs[head]
    row["tail_mass"] = mass = cumulative[-1]
    if mass > 0:
        tail = np.searchsorted(cumulative, rng.random(TAIL) * mass, side="right")
        row["tail_tokens"], row["tail_logprobs"] = tail, logprobs[tail]
    return row


class ReferenceWriter:
    """Writes a reference beside `path` and gives it its name when all rows are there and on disk.

    A context manager: an error inside leaves nothing behind. Raises InputError where the disk refuses.
    """

    def __init__(self, path: Path, windows: Windows, *, n_vocab: int, model: str, seed: int = 0) -> None:
        n_windows, n_ctx = windows.tokens.shape
        self.header = Header(n_vocab, n_ctx, windows.first, n_windows, windows.sha256, model, seed)
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._rng = np.random.default_rng(seed)
        self._file: IO[bytes] | None = None
        self._rows = 0

    def __enter__(self) -> ReferenceWriter:
        head = json.dumps(asdict(self.header)).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._part, "wb")
            self._write(_padded(MAGIC + len(head).to_bytes(4, "little") + head))
        except OSError as error:
            self._discard()
            raise self._refused(error) from error
        except InputError:
            self._discard()
            raise
        return self

    def append(self, logits: NDArray[np.float32], normalizers: NDArray[np.float64]) -> None:
        """The next rows: logits (n, n_vocab) and their log-normalizers (n,)."""
        if self.header.full:
            rows: NDArray = (logits - normalizers[:, None]).astype("<f4")
        else:
            logprobs = (row.astype(np.float64) - z for row, z in zip(logits, normalizers, strict=True))
            rows = np.stack([sample_row(row, self._rng) for row in logprobs])
        self._write(rows.tobytes())
        self._rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            return
        if self._rows != self.header.rows:
            self._discard()
            raise ValueError(f"{self._path}: {self._rows} rows were given of {self.header.rows}")
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self._path)
            _sync_directory(self._path.parent)
        except OSError as failure:
            self._discard()
            raise self._refused(failure) from failure

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> InputError:
        size = self.header.rows * self.header.row_bytes
        return InputError(f"{self._path}: cannot write the reference of {size} bytes: {error.strerror}")

    def _discard(self) -> None:
        if self._file is not None:
            try:
                self._file.close()  # flushes, so that a full disk speaks up once more; the file goes anyway
            except OSError:
                self._file = None
        self._part.unlink(missing_ok=True)


class Reference:
    """A reference file that has been read and found whole. Rows are mapped, not loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise InputError(f"{path}: not a reference file; {MAKE_ANEW}")
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
                f"{path}: {size} bytes where its header asks for {expected}; remove it to have it made anew"
            )
        n = self.header.rows
        kind, shape = (np.dtype("<f4"), (n, self.header.n_vocab)) if self.header.full else (SAMPLED_ROW, (n,))
        self._rows: NDArray = np.memmap(path, mode="r", offset=start, dtype=kind, shape=shape)

    def rows(self, window: int, start: int, n: int) -> NDArray:
        """Rows of positions `start` .. `start` + n - 1 of a window: float32 (n, n_vocab) or SAMPLED_ROW (n,)."""
        at = window * (self.header.n_ctx - 1 - self.header.first) + start - self.header.first
        return self._rows[at : at + n]

    def require(self, windows: Windows, n_vocab: int) -> None:
        """Raise InputError unless this is the reference of the very same tokens (or of more of them)."""
        if self.header.n_vocab != n_vocab:
            raise InputError(
                f"{self.path}: the reference has a vocabulary of {self.header.n_vocab}, this model {n_vocab}; "
                "divergence needs variants of one model"
            )
        if self.header.tokens_sha256 != windows.sha256:
            raise InputError(f"{self.path}: the reference was made of another text or context; {MAKE_ANEW}")


def _parse_header(path: Path, raw: bytes) -> Header:
    try:
        header = Header(**json.loads(raw))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its header is damaged; {MAKE_ANEW}") from error
    numbers = (header.n_vocab, header.n_ctx, header.windows)
    sound = all(isinstance(n, int) and 0 < n < 1 << 31 for n in numbers) and isinstance(header.first, int)
    if not sound or not 0 <= header.first < header.n_ctx - 1:
        raise InputError(f"{path}: its header is damaged; {MAKE_ANEW}")
    return header


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; only POSIX systems need it and can do it."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
