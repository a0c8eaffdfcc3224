"""Checks that sharing prefixes does not change scores: the same requests are scored together, and alone.

Batches of another shape add up numbers in another order. With F32 weights and an F32 cache the differences are far
below 1e-4 nats. With an f16 cache and flash attention, log-likelihoods differ by a few hundredths of a nat, as they do
between any two batch sizes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sweep.backends.base import Backend, Score, ScoreRequest

SHARE = 0.04  # the sample computes at most this share of the task's tokens


@dataclass(frozen=True)
class SharingCheck:
    """The differences between scores with and without shared prefixes.

    Attributes:
        requests: number of requests that were compared.
        questions: number of questions that they belong to.
        largest_difference: the largest difference of a log-likelihood, in nats.
        changed_answers: number of questions with another answer: another most probable continuation or, for a question
            with one continuation, another `is_greedy`.
        changed_greedy: number of requests with another `is_greedy`.
    """

    requests: int = 0
    questions: int = 0
    largest_difference: float = 0.0
    changed_answers: int = 0
    changed_greedy: int = 0

    def __add__(self, other: SharingCheck) -> SharingCheck:
        return SharingCheck(
            self.requests + other.requests,
            self.questions + other.questions,
            max(self.largest_difference, other.largest_difference),
            self.changed_answers + other.changed_answers,
            self.changed_greedy + other.changed_greedy,
        )


class SharingSample:
    """Scores a sample of a task's questions a second time, each question alone, for at most SHARE of the task's tokens.

    Requests arrive in parts, as they are scored. From each part the sample takes as many questions as SHARE of its
    tokens, and what earlier parts left over, can pay for. They are evenly spaced, so that a task has the same sample in
    every variant. If not even one question is affordable (few items with long examples), `check` stays None.
    """

    def __init__(self) -> None:
        self._allowed = 0.0
        self.check: SharingCheck | None = None

    def add(
        self,
        backend: Backend,
        requests: Sequence[ScoreRequest],
        scores: Sequence[Score],
        questions: Sequence[Hashable],
    ) -> None:
        """Sample a part: `requests`, their `scores` with shared prefixes, and the question that each belongs to."""
        groups = _grouped(questions)
        self._allowed += SHARE * distinct_tokens(requests)
        costs = [distinct_tokens([requests[i] for i in group]) for group in groups]
        n = min(len(groups), int(self._allowed * len(groups) / max(1, sum(costs))))
        while n and sum(costs[at] for at in _spaced(n, len(groups))) > self._allowed:
            n -= 1
        for at in _spaced(n, len(groups)):
            self._allowed -= costs[at]
            alone = backend.loglikelihoods([requests[i] for i in groups[at]])
            found = _compared([scores[i] for i in groups[at]], alone)
            self.check = found if self.check is None else self.check + found


def distinct_tokens(requests: Sequence[ScoreRequest]) -> int:
    """Number of tokens that are computed for `requests` if every common prefix is computed once."""
    paths = sorted(request.context + request.continuation[:-1] for request in requests)
    return sum(map(len, paths)) - sum(_common(first, second) for first, second in pairwise(paths))


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Length of the common prefix, by bisection, because comparing slices is fast."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """Indices of equal keys in groups, in the order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _spaced(n: int, of: int) -> list[int]:
    """`n` of the indices 0 .. `of` - 1, evenly spaced."""
    return [(2 * i + 1) * of // (2 * n) for i in range(n)]


def _compared(together: Sequence[Score], apart: Sequence[Score]) -> SharingCheck:
    """The check of one question, from its scores with shared prefixes and alone."""
    flags = sum(a.is_greedy != b.is_greedy for a, b in zip(together, apart, strict=True))
    best = [max(range(len(found)), key=lambda i, found=found: found[i].logprob) for found in (together, apart)]  # type: ignore[misc]
    return SharingCheck(
        requests=len(together),
        questions=1,
        largest_difference=max(abs(a.logprob - b.logprob) for a, b in zip(together, apart, strict=True)),
        changed_answers=int(best[0] != best[1] if len(together) > 1 else flags > 0),
        changed_greedy=flags,
    )
