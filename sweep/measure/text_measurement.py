"""Decodes a text once to measure perplexity and, with a reference, divergence, or to write the reference file."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.backends.base import Backend, Progress, WindowLogits
from sweep.measure.basefile import BaseFileWriter
from sweep.measure.divergence import RowDivergence
from sweep.measure.perplexity import Windows, summarize_nll
from sweep.measure.positions import Positions, TextPositions
from sweep.measure.reference import Distributions, ReferenceWriter
from sweep.measure.softmax import RowSummary, available_cores, map_rows, summarize_rows
from sweep.measure.summary import summarize_divergence
from sweep.measure.text_results import DivergenceResult, NoiseFloor, PerplexityResult


class DistributionWriter(Protocol):
    """Writes a file of next-token distributions: ReferenceWriter or BaseFileWriter."""

    def __enter__(self) -> Self: ...

    def encode(
        self, at: int, logits: NDArray[np.float32], normalizers: NDArray[np.float64], targets: NDArray[np.integer]
    ) -> NDArray: ...

    def append(self, rows: NDArray) -> None: ...


@dataclass(frozen=True)
class TextMeasurement:
    """The figures of every scored position, and those of all of them together."""

    positions: TextPositions

    @cached_property
    def perplexity(self) -> PerplexityResult:
        return summarize_nll(self.positions.nll)

    @cached_property
    def divergence(self) -> DivergenceResult | None:
        positions = self.positions.divergence
        return None if positions is None else summarize_divergence(positions)


@dataclass(frozen=True)
class _Rows:
    """Figures of consecutive rows of a window; the first one is the window's row number `at`."""

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
    """Decode `windows` once and compute the perplexity.

    Args:
        reference: compute the divergence from this reference, too.
        write_reference: write this model's distributions to this path, as the reference of later measurements.
        write_base_file: write them to this path in the format of llama.cpp's base file.
        model: the name of this model in the reference file.
        parallel: number of windows per batch; None: as many as fit.
        threads: number of threads that share the rows; None: one per core.
        progress: called with the number of windows that are done, and their total.

    Raises InputError if the reference was made from other tokens or another vocabulary, or if logits are not finite.
    """
    if reference is not None:
        reference.require(windows, backend.n_vocab)
    shape = (len(windows.tokens), windows.rows_each)
    kld, variance, confidence, nll, reference_nll = np.zeros((5, *shape))
    same_top = np.zeros(shape, dtype=bool)
    with ExitStack() as stack:
        writers: list[DistributionWriter] = []
        if write_reference is not None:
            writer = ReferenceWriter(write_reference, windows, n_vocab=backend.n_vocab, model=model)
            writers.append(stack.enter_context(writer))
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
    if reference is not None:
        if not (np.isfinite(kld).all() and np.isfinite(reference_nll).all()):
            raise InputError(
                f"{reference.path}: the divergence from this reference is not finite; is the file damaged?"
            )
        positions = Positions(kld, variance, same_top, confidence, nll, reference_nll)
        return TextMeasurement(TextPositions(nll, positions))
    return TextMeasurement(TextPositions(nll, None))


def noise_floor(
    backend: Backend,
    windows: Windows,
    reference: Distributions,
    *,
    n_windows: int | None = None,
    threads: int | None = None,
) -> NoiseFloor:
    """Divergence of the reference model from its own reference file, with one window per batch.

    `n_windows` is the number of windows, from the first one on. By default it is a sixteenth of all windows, but at
    least 2 and at most 8, because the noise floor takes additional time. `threads` share the rows (None: one per core).
    """
    reference.require(windows, backend.n_vocab)
    first = windows.head(n_windows or max(2, min(8, len(windows.tokens) // 16)))
    klds = [
        rows.divergence.kld for rows in _rows(backend, first, reference, [], 1, threads) if rows.divergence is not None
    ]
    return NoiseFloor(float(np.concatenate(klds).mean()), len(first.tokens))


def _rows(
    backend: Backend,
    windows: Windows,
    reference: Distributions | None,
    writers: list[DistributionWriter],
    parallel: int | None,
    threads: int | None,
) -> Iterator[_Rows]:
    """Decode all windows, compute the figures of their rows on several threads, and yield them in order."""
    threads = threads or available_cores()
    with ThreadPoolExecutor(threads) as pool:
        for part in backend.windows(windows.tokens, windows.first, parallel=parallel):
            compute = _RowComputation(windows, part, reference, writers)
            for piece, (rows, encoded) in map_rows(pool, threads, len(part.logits), compute):
                for writer, lines in zip(writers, encoded, strict=True):
                    writer.append(lines)
                yield _Rows(part.window, part.start - windows.first + piece.start, *rows)


@dataclass(frozen=True)
class _RowComputation:
    """Computes, for a slice of a part's rows, (negative log-likelihoods, divergence) and the rows of each writer."""

    windows: Windows
    part: WindowLogits
    reference: Distributions | None
    writers: list[DistributionWriter]

    def __call__(self, piece: slice) -> tuple[tuple[NDArray[np.float64], RowDivergence | None], list[NDArray]]:
        part, start = self.part, self.part.start + piece.start
        logits = part.logits[piece]
        n = len(logits)
        targets = self.windows.tokens[part.window, start + 1 : start + 1 + n]
        summary: RowSummary = summarize_rows(logits)
        if not np.isfinite(summary.normalizers).all():
            raise InputError(f"window {part.window}: the model's logits are not finite numbers; is the file damaged?")
        nll = summary.normalizers - logits[np.arange(n), targets]
        divergence = None
        if self.reference is not None:
            reference_rows = self.reference.rows(part.window, start, n)
            divergence = self.reference.divergence(reference_rows, logits, summary.normalizers, summary.top, targets)
        at = part.window * self.windows.rows_each + start - self.windows.first
        encoded = [writer.encode(at, logits, summary.normalizers, targets) for writer in self.writers]
        return (nll, divergence), encoded
