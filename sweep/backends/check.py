"""What sharing prefixes does to scores: the same requests all together, and apart.

Batches of another shape add numbers up in another order. With F32 weights and cache that is far below 1e-4; with an f16
cache and flash attention log-likelihoods move by some hundredths, as they do between any two batch sizes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sweep.backends.base import Backend, Score, ScoreRequest

SHARE = 0.04  # of the tokens that a task takes, so many are computed once more


@dataclass(frozen=True)
class SharingCheck:
    """`largest_difference` of a log-likelihood (nats) over `requests` requests of `questions` questions, of which
    `changed_answers` have another answer: another likeliest continuation or, with one continuation alone, another
    `is_greedy`. `changed_greedy` counts all flags that differ.
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
    """Questions of a task scored once more, each by itself, for at most SHARE of the tokens that the task takes.

    Requests come in parts, as they are scored. Of each part as many questions are taken as the tokens of this part, and
    what is left over of earlier ones, allow: evenly spaced, so that the same task has the same sample in every variant.
    Where not even one question is affordable (few items with long examples) there is no check.
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
        """A part: `requests` with the `scores` that they got together, and the question that each belongs to."""
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
    """How many tokens are computed for `requests` where every common prefix is computed once."""
    paths = sorted(request.context + request.continuation[:-1] for request in requests)
    return sum(map(len, paths)) - sum(_common(first, second) for first, second in pairwise(paths))


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Length of the common prefix, by bisection: slices compare fast."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """Places of equal keys together, in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _spaced(n: int, of: int) -> list[int]:
    """`n` places of `of`, evenly spaced, each in the middle of its stretch."""
    return [(2 * i + 1) * of // (2 * n) for i in range(n)]


def _compared(together: Sequence[Score], apart: Sequence[Score]) -> SharingCheck:
    """One question's scores."""
    flags = sum(a.is_greedy != b.is_greedy for a, b in zip(together, apart, strict=True))
    best = [max(range(len(found)), key=lambda i, found=found: found[i].logprob) for found in (together, apart)]  # type: ignore[misc]
    return SharingCheck(
        requests=len(together),
        questions=1,
        largest_difference=max(abs(a.logprob - b.logprob) for a, b in zip(together, apart, strict=True)),
        changed_answers=int(best[0] != best[1] if len(together) > 1 else flags > 0),
        changed_greedy=flags,
    )
