"""One decoding pass over a text gives perplexity and, against a reference, divergence; or it makes the reference."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.backends.base import Backend, Progress, WindowLogits
from sweep.measure.basefile import BaseFileWriter
from sweep.measure.divergence import RowDivergence
from sweep.measure.perplexity import Windows, summarize_nll
from sweep.measure.reference import Distributions, ReferenceWriter
from sweep.measure.results import DivergenceResult, NoiseFloor, PerplexityResult
from sweep.measure.softmax import RowSummary, cores, over_rows, summarize_rows
from sweep.measure.summary import Positions, summarize_divergence


class Writer(Protocol):
    """What makes a reference file: ReferenceWriter or BaseFileWriter."""

    def __enter__(self) -> Self: ...

    def encode(
        self, at: int, logits: NDArray[np.float32], normalizers: NDArray[np.float64], targets: NDArray[np.integer]
    ) -> NDArray: ...

    def append(self, rows: NDArray) -> None: ...


@dataclass(frozen=True)
class TextMeasurement:
    perplexity: PerplexityResult
    divergence: DivergenceResult | None


@dataclass(frozen=True)
class _Rows:
    """Of some rows of a window, the first of them the window's `at`-th."""

    window: int
    at: int
    nll: NDArray[np.float64]
    divergence: RowDivergence | None


def measure_text(
    backend: Backend,
    windows: Windows,
    *,
    reference: Distributions | None = None,
    write_reference: Path | None = None,
    write_base_file: Path | None = None,
    model: str = "",
    parallel: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TextMeasurement:
    """Decode `windows` once. `reference` adds the divergence from it; `write_reference` makes this model the reference
    (named `model` in the file), `write_base_file` writes it as llama.cpp does. `threads` share the rows (default: one
    a core). Progress counts windows.

    Raises InputError where the reference is of other tokens or another vocabulary, or where logits are not numbers.
    """
    if reference is not None:
        reference.require(windows, backend.n_vocab)
    shape = (len(windows.tokens), windows.rows_each)
    kld, variance, confidence, nll, reference_nll = np.zeros((5, *shape))
    same_top = np.zeros(shape, dtype=bool)
    with ExitStack() as stack:
        writers: list[Writer] = []
        if write_reference is not None:
            own = ReferenceWriter(write_reference, windows, n_vocab=backend.n_vocab, model=model)
            writers.append(stack.enter_context(own))
        if write_base_file is not None:
            writers.append(stack.enter_context(BaseFileWriter(write_base_file, windows, n_vocab=backend.n_vocab)))
        for rows in _rows(backend, windows, reference, writers, parallel, threads):
            here = rows.window, slice(rows.at, rows.at + len(rows.nll))
            nll[here] = rows.nll
            if rows.divergence is not None:
                kld[here], variance[here] = rows.divergence.kld, rows.divergence.variance
                same_top[here], confidence[here] = rows.divergence.same_top, rows.divergence.confidence
                reference_nll[here] = -rows.divergence.target_logprob
            if progress and here[1].stop == windows.rows_each:
                progress(rows.window + 1, len(windows.tokens))
    divergence = None
    if reference is not None:
        if not (np.isfinite(kld).all() and np.isfinite(reference_nll).all()):
            raise InputError(f"{reference.path}: the divergence from this reference is not a number; is it damaged?")
        divergence = summarize_divergence(Positions(kld, variance, same_top, confidence, nll, reference_nll))
    return TextMeasurement(summarize_nll(nll), divergence)


def noise_floor(
    backend: Backend,
    windows: Windows,
    reference: Distributions,
    *,
    n_windows: int | None = None,
    threads: int | None = None,
) -> NoiseFloor:
    """Decode the reference model's own first windows one a batch and compare them with its file.

    Of few windows it takes two, of more a sixteenth, and no more than eight: this is time that no variant gets.
    """
    reference.require(windows, backend.n_vocab)
    few = windows.head(n_windows or max(2, min(8, len(windows.tokens) // 16)))
    klds = [
        rows.divergence.kld for rows in _rows(backend, few, reference, [], 1, threads) if rows.divergence is not None
    ]
    return NoiseFloor(float(np.concatenate(klds).mean()), len(few.tokens))


def _rows(
    backend: Backend,
    windows: Windows,
    reference: Distributions | None,
    writers: list[Writer],
    parallel: int | None,
    threads: int | None,
) -> Iterator[_Rows]:
    """Decode, and let threads work on slices of the rows; what comes of them, in order."""
    threads = threads or cores()
    with ThreadPoolExecutor(threads) as pool:
        for part in backend.windows(windows.tokens, windows.first, parallel=parallel):
            work = _Work(windows, part, reference, writers)
            for piece, (rows, encoded) in over_rows(pool, threads, len(part.logits), work):
                for writer, lines in zip(writers, encoded, strict=True):
                    writer.append(lines)
                yield _Rows(part.window, part.start - windows.first + piece.start, *rows)


@dataclass(frozen=True)
class _Work:
    """What is done with a slice of a part's rows: (negative log-likelihoods, divergence) and each writer's rows."""

    windows: Windows
    part: WindowLogits
    reference: Distributions | None
    writers: list[Writer]

    def __call__(self, piece: slice) -> tuple[tuple[NDArray[np.float64], RowDivergence | None], list[NDArray]]:
        part, start = self.part, self.part.start + piece.start
        logits = part.logits[piece]
        n = len(logits)
        targets = self.windows.tokens[part.window, start + 1 : start + 1 + n]
        summary: RowSummary = summarize_rows(logits)
        if not np.isfinite(summary.normalizers).all():
            raise InputError(f"window {part.window}: the model's logits are not numbers; is the file damaged?")
        nll = summary.normalizers - logits[np.arange(n), targets]
        divergence = None
        if self.reference is not None:
            known = self.reference.rows(part.window, start, n)
            divergence = self.reference.divergence(known, logits, summary.normalizers, summary.top, targets)
        at = part.window * self.windows.rows_each + start - self.windows.first
        encoded = [writer.encode(at, logits, summary.normalizers, targets) for writer in self.writers]
        return (nll, divergence), encoded
