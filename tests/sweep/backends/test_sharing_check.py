"""The sample of questions that are scored again: its cost, its spread, and the changes that it finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sweep.backends.base import Score, ScoreRequest
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.sharing_check import SHARE, SharingSample, distinct_tokens
from sweep.backends.trie import plan

EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}


@pytest.fixture(scope="module")
def backend(tiny: Any) -> Iterator[LlamaBackend]:
    found = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1, **EXACT))
    yield found
    found.close()


def sample_requests(n_questions: int, examples: int = 0) -> tuple[list[ScoreRequest], list[int]]:
    """Questions with three choices after common examples."""
    rng = np.random.default_rng(3)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(10, 400, n).tolist())

    common = tokens(examples)
    requests, questions = [], []
    for question in range(n_questions):
        context = common + tokens(int(rng.integers(5, 20)))
        requests += [ScoreRequest(context, tokens(n)) for n in (1, 4, 2)]
        questions += [question] * 3
    return requests, questions


class RecordingBackend:
    """A backend that records its calls."""

    def __init__(self, backend: LlamaBackend) -> None:
        self._backend = backend
        self.calls: list[tuple[ScoreRequest, ...]] = []

    def loglikelihoods(self, requests: Sequence[ScoreRequest], progress: Any = None) -> list[Score]:
        self.calls.append(tuple(requests))
        return self._backend.loglikelihoods(requests, progress)


def test_distinct_tokens_are_the_size_of_the_trie(backend: LlamaBackend) -> None:
    for n, examples in ((1, 0), (40, 0), (40, 60)):
        requests, _ = sample_requests(n, examples)
        requests.append(requests[0])
        assert distinct_tokens(requests) == plan(requests, backend.score_budget(100)).distinct


@pytest.mark.parametrize("examples", [0, 40])
def test_the_sample_is_spread_over_the_task_and_stays_within_its_share(backend: LlamaBackend, examples: int) -> None:
    requests, questions = sample_requests(240, examples)
    scores = backend.loglikelihoods(requests)
    samples = []
    for part in (720, 120):  # all at once, or in parts
        counted, sample = RecordingBackend(backend), SharingSample()
        for at in range(0, len(requests), part):
            here = slice(at, at + part)
            sample.add(counted, requests[here], scores[here], questions[here])  # type: ignore[arg-type]
        total = sum(distinct_tokens(requests[at : at + part]) for at in range(0, len(requests), part))
        assert sum(map(distinct_tokens, counted.calls)) <= SHARE * total
        places = [questions[requests.index(call[0])] for call in counted.calls]
        assert len(places) >= 2
        assert min(places) < 120 <= max(places)
        assert all(len(call) == 3 for call in counted.calls)
        assert sample.check is not None
        assert (sample.check.questions, sample.check.requests) == (len(places), 3 * len(places))
        assert sample.check.largest_difference < 1e-4
        assert sample.check.changed_answers == 0
        samples.append(places)
    assert len(samples[0]) >= len(samples[1])


def test_changed_scores_and_answers_are_found(backend: LlamaBackend) -> None:
    requests, questions = sample_requests(60)
    scores = backend.loglikelihoods(requests)
    moved = [replace(score, logprob=score.logprob + 0.25) for score in scores]
    turned = [replace(score, logprob=-score.logprob) for score in scores]
    found = []
    for together in (moved, turned):
        sample = SharingSample()
        sample.add(backend, requests, together, questions)
        assert sample.check is not None
        found.append(sample.check)
    assert found[0].largest_difference == pytest.approx(0.25, abs=1e-4)
    assert found[0].changed_answers == 0
    assert found[1].changed_answers == found[1].questions > 0


def test_questions_that_cost_too_much_are_not_sampled(backend: LlamaBackend) -> None:
    requests, questions = sample_requests(5, 60)
    counted, sample = RecordingBackend(backend), SharingSample()
    sample.add(counted, requests, backend.loglikelihoods(requests), questions)  # type: ignore[arg-type]
    assert counted.calls == []
    assert sample.check is None
