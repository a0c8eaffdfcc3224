"""Log-likelihoods by llama.cpp: the steps of a plan (see trie) in a context, and what their logits say.

A token of llama.cpp's batch may belong to several sequences, and sequences share cells: copying one copies no cell. A
recurrent state is copied when one of the sequences that share it goes on.
"""

from __future__ import annotations

import numpy as np

from converters.llamacpp.model import Context
from sweep.backends.base import Progress, Score
from sweep.backends.logits import log_normalizers
from sweep.backends.trie import Plan


def score(context: Context, plan: Plan, progress: Progress | None = None) -> list[Score]:
    """The scores of the plan's requests, in their order. `context` is empty and as large as the plan's budget."""
    n = len(plan.wanted)
    logprobs = np.zeros(n, np.float64)
    greedy = np.ones(n, dtype=bool)
    missing = plan.wanted.copy()
    for step in plan.steps():
        for sequence in step.drops:
            context.remove(sequence)
        for source, target, length in step.copies:
            context.copy_sequence(source, target, None if plan.budget.copies_states else length)
        for sequence, length in step.cuts:
            context.remove(sequence, length)
        logits = context.decode(step.tokens, step.positions, step.sequences, step.wanted, step.counts)
        normalizers = log_normalizers(logits)
        values = logits[step.pick_rows, step.pick_tokens].astype(np.float64) - normalizers[step.pick_rows]
        np.add.at(logprobs, step.pick_requests, values)
        same = logits.argmax(axis=1)[step.pick_rows] == step.pick_tokens
        np.logical_and.at(greedy, step.pick_requests, same)
        if progress:
            np.subtract.at(missing, step.pick_requests, 1)
            progress(int(np.count_nonzero(missing == 0)), n)
    return [Score(float(logprob), bool(same)) for logprob, same in zip(logprobs, greedy, strict=True)]
