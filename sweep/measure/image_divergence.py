"""KL divergence of a variant from the reference at the tokens of right answers about images.

The right answer is given token by token (teacher forcing), so both models predict the same tokens after the same images
and text. The reference's distributions are stored in the form of `reference.py`, one row per token of an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweep.backends.base import Backend, Progress
from sweep.measure.answers import RightAnswer
from sweep.measure.perplexity import Windows
from sweep.measure.reference import Distributions, ReferenceWriter
from sweep.measure.softmax import summarize_rows
from sweep.measure.task_options import MeasurementError
from sweep.statistics import bootstrap_interval, cluster_stderr


@dataclass(frozen=True)
class AnswerDivergence:
    """KL divergence in nats per token of the right answers, with its standard error and 95 % interval.

    Answers about the same images are one independent unit. With fewer than two units there is neither error nor
    interval.
    """

    kld_mean: float
    kld_stderr: float | None
    kld_low: float | None
    kld_high: float | None
    top1_agreement: float
    tokens: int
    answers: int
    images: int


@dataclass(frozen=True)
class _Positions(Windows):
    """The tokens of all answers, as windows with one scored position each. `digest` is a hash of the prompts too."""

    digest: str = ""

    @cached_property
    def sha256(self) -> str:
        return self.digest


def write_answers(backend: Backend, answers: Sequence[RightAnswer], path: Path, progress: Progress) -> None:
    """Write the reference's distributions at the tokens of the answers to `path`. Raises MeasurementError."""
    positions = _positions(answers)
    with ReferenceWriter(path, positions, n_vocab=backend.n_vocab, model="") as writer:
        at = 0
        for logits, targets in _logits(backend, answers, progress):
            writer.append(writer.encode(at, logits, summarize_rows(logits).normalizers, targets))
            at += len(targets)


def compare_answers(
    backend: Backend, answers: Sequence[RightAnswer], reference: Distributions, progress: Progress
) -> AnswerDivergence:
    """The divergence from a file of `write_answers`.

    Raises InputError if the file was made from other prompts or answers, MeasurementError for logits that are not
    finite.
    """
    reference.require(_positions(answers), backend.n_vocab)
    kld: list[NDArray[np.float64]] = []
    same: list[NDArray[np.bool_]] = []
    at = 0
    for logits, targets in _logits(backend, answers, progress):
        summary = summarize_rows(logits)
        rows = reference.rows(at, reference.first, len(targets))
        found = reference.divergence(rows, logits, summary.normalizers, summary.top, targets)
        kld.append(found.kld)
        same.append(found.same_top)
        at += len(targets)
    names = [answer.images for answer in answers]
    clusters = np.repeat(np.unique(names, return_inverse=True)[1], [len(values) for values in kld])
    values = np.concatenate(kld)
    images = len(set(names))
    stderr = low = high = None
    if images > 1:
        stderr = cluster_stderr(values, clusters)
        low, high = bootstrap_interval([values[clusters == one] for one in range(images)])
    agreement = float(np.concatenate(same).mean())
    return AnswerDivergence(float(values.mean()), stderr, low, high, agreement, len(values), len(answers), images)


def _logits(
    backend: Backend, answers: Sequence[RightAnswer], progress: Progress
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """For each answer the logits (n, n_vocab) that predict its tokens, and these tokens (n,)."""
    requests = [answer.request for answer in answers]
    for done, (request, logits) in enumerate(zip(requests, backend.continuation_logits(requests), strict=True), 1):
        if not np.isfinite(logits).all():
            raise MeasurementError("logits after an image are not finite (nan): check the weights of this file")
        yield logits, np.array(request.continuation)
        progress(done, len(requests))


def _positions(answers: Sequence[RightAnswer]) -> _Positions:
    digest = hashlib.sha256()
    for answer in answers:
        request = answer.request
        places = [(placed.at, placed.image.content) for placed in request.images]
        digest.update(repr((request.context, request.continuation, places)).encode())
    targets = np.concatenate([answer.request.continuation for answer in answers]).astype(np.int32)
    return _Positions(np.stack([np.zeros_like(targets), targets], axis=1), 0, digest=digest.hexdigest())
