"""One decoding pass over a text gives perplexity and, against a reference, divergence; or it makes the reference."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.errors import InputError
from sweep.backends.base import Backend, Progress
from sweep.backends.logits import log_normalizers
from sweep.measure.divergence import DivergenceResult, row_divergence, summarize_kld
from sweep.measure.perplexity import PerplexityResult, Windows, summarize_nll
from sweep.measure.reference import Reference, ReferenceWriter


@dataclass(frozen=True)
class TextMeasurement:
    perplexity: PerplexityResult
    divergence: DivergenceResult | None


@dataclass(frozen=True)
class NoiseFloor:
    """Mean KL divergence of a model from itself under another batch shape, over the first `windows` of the text."""

    kld_mean: float
    windows: int


def measure_text(
    backend: Backend,
    windows: Windows,
    *,
    reference: Reference | None = None,
    write_reference: Path | None = None,
    model: str = "",
    parallel: int | None = None,
    progress: Progress | None = None,
) -> TextMeasurement:
    """Decode `windows` once. `reference` adds the divergence from it; `write_reference` makes this model the reference
    (named `model` in the file). Progress counts windows.

    Raises InputError where the reference is of other tokens or another vocabulary, or where logits are not numbers.
    """
    if reference is not None:
        reference.require(windows, backend.n_vocab)
    shape = (len(windows.tokens), windows.rows_each)
    nll, kld, variance = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    same_top = np.zeros(shape, dtype=bool)
    writer = (
        ReferenceWriter(write_reference, windows, n_vocab=backend.n_vocab, model=model) if write_reference else None
    )
    with writer or nullcontext():
        for part in backend.windows(windows.tokens, windows.first, parallel=parallel):
            n = len(part.logits)
            here = part.window, slice(part.start - windows.first, part.start - windows.first + n)
            normalizers = log_normalizers(part.logits)
            if not np.isfinite(normalizers).all():
                raise InputError(f"window {part.window}: the model's logits are not numbers; is the file damaged?")
            targets = windows.tokens[part.window, part.start + 1 : part.start + 1 + n]
            nll[here] = normalizers - part.logits[np.arange(n), targets]
            if writer is not None:
                writer.append(part.logits, normalizers)
            if reference is not None:
                rows = row_divergence(reference.rows(part.window, part.start, n), part.logits, normalizers)
                kld[here], variance[here], same_top[here] = rows.kld, rows.variance, rows.same_top
            if progress and here[1].stop == windows.rows_each:
                progress(part.window + 1, len(windows.tokens))
    divergence = summarize_kld(kld, variance, same_top) if reference is not None else None
    return TextMeasurement(summarize_nll(nll), divergence)


def noise_floor(backend: Backend, windows: Windows, reference: Reference, *, n_windows: int = 8) -> NoiseFloor:
    """Decode the reference model's own first windows one a batch and compare them with its file."""
    reference.require(windows, backend.n_vocab)
    few = windows.head(n_windows)
    klds = [
        row_divergence(
            reference.rows(part.window, part.start, len(part.logits)), part.logits, log_normalizers(part.logits)
        ).kld
        for part in backend.windows(few.tokens, few.first, parallel=1)
    ]
    return NoiseFloor(float(np.concatenate(klds).mean()), len(few.tokens))
