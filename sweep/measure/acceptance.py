"""How many drafted tokens a model accepts in greedy speculative decoding (Leviathan et al. 2023, arXiv:2211.17192).

A draft proposes a few tokens. The model checks them in one pass, accepts those before the first that it would not have
generated itself, and adds one of its own. So the text is what the model generates alone, whatever the draft is. As long
as all drafted tokens before it are accepted, a drafted token is the draft's most probable one after the model's own
text. So one pass of the draft over that text gives the same figures as drafting step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.errors import InputError
from sweep.backends.base import Backend, GenerationRequest, ScoreRequest, Tokens

TEXTS = 32
NEW_TOKENS = 64


@dataclass(frozen=True)
class Acceptance:
    """`rate` is the share of `drafted` tokens that were accepted, `stderr` its standard error with whole texts as the
    independent units (0 for one text). `tokens_per_pass` is how many tokens a pass of the model gives on average."""

    rate: float
    stderr: float
    tokens_per_pass: float
    drafted: int
    accepted: int
    passes: int
    texts: int


def prompts_of(windows: Tokens, texts: int = TEXTS) -> list[tuple[int, ...]]:
    """The first halves of up to `texts` windows, which are spread evenly; `windows` is int32 (n, window)."""
    count, window = windows.shape
    chosen = np.linspace(0, count - 1, min(count, texts)).round().astype(int)
    return [tuple(map(int, windows[index, : window // 2])) for index in chosen]


def generated(model: Backend, prompts: Sequence[tuple[int, ...]], new_tokens: int) -> list[tuple[int, ...]]:
    """The tokens that the model generates greedily after each prompt, at most `new_tokens`."""
    return [one.tokens for one in model.generate([GenerationRequest(prompt, new_tokens) for prompt in prompts])]


def drafted_right(
    draft: Backend, prompts: Sequence[tuple[int, ...]], texts: Sequence[tuple[int, ...]]
) -> list[NDArray[np.bool_]]:
    """For each text, bool (number of its tokens,): whether the token is the draft's most probable one there. A text
    ends before a token that the draft's vocabulary does not have."""
    known = [text[: next((i for i, token in enumerate(text) if token >= draft.n_vocab), len(text))] for text in texts]
    requests = [ScoreRequest(prompt, text) for prompt, text in zip(prompts, known, strict=True) if text]
    logits = draft.continuation_logits(requests)
    return [row.argmax(axis=1) == np.array(one.continuation) for row, one in zip(logits, requests, strict=True)]


def acceptance(right: Sequence[NDArray[np.bool_]], drafted: int) -> Acceptance:
    """The figures for drafts of `drafted` tokens at a time, from `drafted_right`.

    The first token of a text comes from the pass over the prompt. A pass counts if all its drafted tokens are within
    the text. Raises InputError if there is none.
    """
    counts = np.array([_passes(one, drafted) for one in right], dtype=np.int64).reshape(-1, 2)
    counts = counts[counts[:, 0] > 0]
    passes, accepted = (int(total) for total in counts.sum(axis=0))
    if not passes:
        raise InputError(f"the model ends its texts before {drafted} tokens can be drafted; give another --perplexity")
    rate = accepted / (passes * drafted)
    n = len(counts)
    residuals = counts[:, 1] - rate * drafted * counts[:, 0]
    spread = float(np.sqrt((residuals**2).sum() * n / (n - 1))) if n > 1 else 0.0  # of a ratio of two sums
    return Acceptance(rate, spread / (passes * drafted), 1 + accepted / passes, passes * drafted, accepted, passes, n)


def _passes(right: NDArray[np.bool_], drafted: int) -> tuple[int, int]:
    """The number of passes over one text, and of the tokens accepted in them."""
    at, passes, accepted = 1, 0, 0
    while at + drafted <= len(right):
        wrong = np.flatnonzero(~right[at : at + drafted])
        kept = int(wrong[0]) if wrong.size else drafted
        at, passes, accepted = at + kept + 1, passes + 1, accepted + kept
    return passes, accepted
