"""What sharing prefixes does to scores: the same requests together and each alone.

Batches of another shape add numbers up in another order. With F32 weights and cache that is far below 1e-4; with an f16
cache and flash attention log-likelihoods move by some hundredths, as they do between any two batch sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.backends.base import Backend, ScoreRequest


@dataclass(frozen=True)
class SharingCheck:
    """`largest_difference` of a log-likelihood (nats) over `requests` requests, whose `questions` (requests of the same
    context) have `changed_answers` another likeliest continuation; `changed_greedy` flags differ.
    """

    requests: int
    questions: int
    largest_difference: float
    changed_answers: int
    changed_greedy: int


def check_sharing(backend: Backend, requests: Sequence[ScoreRequest], sample: int = 32) -> SharingCheck:
    """Score all `requests` together, and each request of `sample` questions, evenly spaced, once more alone."""
    questions: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        questions.setdefault(request.context, []).append(i)
    groups = list(questions.values())
    chosen = groups[:: max(1, len(groups) // sample)][:sample]
    together = backend.loglikelihoods(requests)
    alone = {i: backend.loglikelihoods([requests[i]])[0] for group in chosen for i in group}
    changed = 0
    for group in chosen:
        best = [max(group, key=lambda i, scores=scores: scores[i].logprob) for scores in (together, alone)]  # type: ignore[misc]
        changed += best[0] != best[1]
    return SharingCheck(
        requests=len(alone),
        questions=len(chosen),
        largest_difference=max((abs(together[i].logprob - score.logprob) for i, score in alone.items()), default=0.0),
        changed_answers=changed,
        changed_greedy=sum(together[i].is_greedy != score.is_greedy for i, score in alone.items()),
    )
