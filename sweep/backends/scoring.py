"""Computes log-likelihoods: runs the steps of a plan (see trie) in an engine and adds up the log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converters.errors import InputError
from sweep.backends.base import Progress, Score, ScoreRequest
from sweep.backends.engine import Engine
from sweep.backends.trie import TriePlan


def longest_request(requests: Sequence[ScoreRequest], max_length: int) -> int:
    """Number of input tokens of the longest request: all except the last one of its continuation.

    Raises InputError if a context or a continuation is empty, or if a request is longer than `max_length`.
    """
    for request in requests:
        if not request.context or not request.continuation:
            raise InputError("a log-likelihood request needs at least one token of context and one of continuation")
    longest = max(len(r.context) + len(r.continuation) - 1 for r in requests)
    if longest > max_length:
        raise InputError(f"a request of {longest} tokens is longer than the context of {max_length}")
    return longest


def score(engine: Engine, plan: TriePlan, progress: Progress | None = None) -> list[Score]:
    """The scores of the plan's requests, in their order. `engine` is empty and has at least the plan's budget."""
    n = len(plan.needed)
    logprobs = np.zeros(n, np.float64)
    greedy = np.ones(n, dtype=bool)
    missing = plan.needed.copy()
    for step in plan.steps():
        for sequence in step.drops:
            engine.cut(sequence)
        for source, target, length in step.copies:
            engine.copy(source, target, length)
        for sequence, length in step.cuts:
            engine.cut(sequence, length)
        values, most_probable = engine.log_probs(step)
        np.add.at(logprobs, step.pick_requests, values)
        np.logical_and.at(greedy, step.pick_requests, most_probable)
        if progress:
            np.subtract.at(missing, step.pick_requests, 1)
            progress(int(np.count_nonzero(missing == 0)), n)
    return [Score(float(logprob), bool(same)) for logprob, same in zip(logprobs, greedy, strict=True)]
