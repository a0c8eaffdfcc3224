"""A plan computes every common prefix once, and its steps are right and within its budget."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.backends.base import ScoreRequest
from sweep.backends.trie import PlanBudget, plan

DATA = Path(__file__).parents[4] / "shared/data"
TOKENIZER = Path(__file__).parents[4] / "shared/reference/tokenizers/qwen2"


def follow(requests: Sequence[ScoreRequest], budget: PlanBudget) -> int:
    """Run the plan with an engine that only stores tokens, and check every row. Returns the number of tokens."""
    sequences: dict[int, list[tuple[int, int]]] = {}  # (token, cell) of each position
    answered: dict[int, dict[int, tuple[int, ...]]] = {i: {} for i in range(len(requests))}
    computed = 0
    finished: set[int] = set()
    made = plan(requests, budget)
    for step in made.steps():
        assert 0 < len(step.tokens) <= budget.batch
        assert np.count_nonzero(step.outputs) <= budget.rows
        for sequence in step.drops:
            del sequences[sequence]
            finished.discard(sequence)
        for source, target, length in step.copies:
            assert source not in finished
            assert target not in sequences
            assert 0 < length <= len(sequences[source])
            assert not budget.copies_states or length == len(sequences[source])
            sequences[target] = sequences[source][:length]
        for sequence, length in step.cuts:
            assert not budget.copies_states
            assert length <= len(sequences[sequence])
            sequences[sequence] = sequences[sequence][:length]
        assert finished.isdisjoint(step.sequences.tolist())
        finished.update(step.finished)
        owners = np.split(step.sequences, np.cumsum(step.counts)[:-1])
        assert sum(map(len, owners)) == len(step.sequences)
        prefixes = []
        for token, position, mine, is_output in zip(step.tokens, step.positions, owners, step.outputs, strict=True):
            assert len(set(mine.tolist())) == len(mine) >= 1
            assert not budget.copies_states or len(mine) == 1
            before = {tuple(sequences.get(s, [])) for s in mine.tolist()}
            assert len(before) == 1  # their sequences are equal up to here
            assert len(next(iter(before))) == position
            for s in mine.tolist():
                sequences[s] = [*sequences.get(s, []), (int(token), computed)]
            if is_output:
                prefixes.append(tuple(t for t, _ in sequences[int(mine[0])]))
            computed += 1
        assert len({cell for held in sequences.values() for _, cell in held}) <= budget.cells
        assert len(sequences) <= budget.sequences
        assert all(0 <= s < budget.sequences for s in sequences)
        for row, token, request in zip(step.pick_rows, step.pick_tokens, step.pick_requests, strict=True):
            at = len(prefixes[row]) - len(requests[request].context)
            assert at not in answered[int(request)]
            assert token == requests[request].continuation[at]
            answered[int(request)][at] = prefixes[row]
    for i, request in enumerate(requests):
        whole = request.context + request.continuation
        expected = {k: whole[: len(request.context) + k] for k in range(len(request.continuation))}
        assert answered[i] == expected
    assert computed == made.computed
    assert bool(finished) == bool(budget.copies_states and requests)
    return computed


def nested(rng: np.random.Generator, n: int) -> list[ScoreRequest]:
    """Requests with common prefixes at many depths; some are equal, and some are prefixes of others."""
    stems: list[tuple[int, ...]] = [()]
    for _ in range(n // 3):
        stem = stems[rng.integers(len(stems))]
        if len(stem) < 60:
            stems.append(stem + tuple(rng.integers(0, 3, rng.integers(1, 12)).tolist()))
    requests = []
    for _ in range(n):
        context = stems[rng.integers(len(stems))] or (1,)
        requests.append(ScoreRequest(context, tuple(rng.integers(0, 3, rng.choice([1, 1, 2, 5, 9])).tolist())))
    requests += [requests[i] for i in rng.integers(0, n, 5)]
    requests += [ScoreRequest(r.context + r.continuation, (2, 1)) for r in requests[:5]]
    return requests


def nodes(requests: Sequence[ScoreRequest]) -> int:
    paths = [r.context + r.continuation[:-1] for r in requests]
    return len({path[: k + 1] for path in paths for k in range(len(path))})


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("cells", "sequences", "batch", "rows"), [(90, 4, 32, 7), (200, 16, 50, 1000), (1000, 256, 512, 40)]
)
def test_every_prefix_is_computed_once_if_tokens_are_shared(seed, cells, sequences, batch, rows):
    requests = nested(np.random.default_rng(seed), 60)
    assert follow(requests, PlanBudget(cells, sequences, batch, rows)) == nodes(requests)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sequences", [1, 2, 3, 5, 9, 64])
@pytest.mark.parametrize("min_shared", [1, 4])
def test_states_are_copied_where_branches_separate(seed, sequences, min_shared):
    requests = nested(np.random.default_rng(seed), 60)
    budget = PlanBudget(150, sequences, 40, 11, copies_states=True, min_shared=min_shared)
    computed = follow(requests, budget)
    made = plan(requests, budget)
    assert made.distinct == nodes(requests)
    assert made.recomputed == computed - made.distinct >= 0
    assert computed <= made.naive
    if sequences == 64 and min_shared == 1:
        assert made.recomputed == 0


@pytest.mark.parametrize("sequences", [2, 4, 7])
@pytest.mark.parametrize("more", [0, 10, 30])
def test_prefixes_computed_again_stay_within_the_cells(sequences, more):
    for seed in range(10):
        requests = nested(np.random.default_rng(seed), 60)
        longest = max(len(r.context) + len(r.continuation) - 1 for r in requests)
        follow(requests, PlanBudget(longest + more, sequences, 40, 11, copies_states=True))


def test_more_room_for_states_computes_fewer_tokens():
    requests = nested(np.random.default_rng(3), 300)
    computed = [plan(requests, PlanBudget(400, n, 512, 512, copies_states=True)).computed for n in (1, 2, 4, 8, 16, 64)]
    assert computed == sorted(computed, reverse=True)
    assert computed[0] > 2 * computed[-1]


def test_a_plan_can_have_one_request_or_none():
    one = [ScoreRequest((5,), (6,))]
    assert follow(one, PlanBudget(1, 1, 1, 1)) == 1
    assert follow(one * 3, PlanBudget(1, 1, 1, 1, copies_states=True)) == 1
    assert list(plan([], PlanBudget(1, 1, 1, 1)).steps()) == []


def test_a_request_larger_than_the_budget_is_rejected():
    with pytest.raises(ValueError, match="9 tokens does not fit into 8 cells"):
        plan([ScoreRequest((1,) * 8, (2, 3))], PlanBudget(8, 2, 4, 4))
    with pytest.raises(ValueError, match="at least 1"):
        plan([], dataclasses.replace(PlanBudget(8, 2, 4, 4), rows=0))


def lines(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open() as file:
        return [json.loads(line) for line in file]


def hellaswag() -> list[tuple[str, str]]:
    documents = lines("hellaswag/val_strided400.jsonl")
    examples = "".join(f"{d['query']} {d['choices'][d['gold']]}\n\n" for d in documents[:5])
    return [(examples + d["query"], f" {choice}") for d in documents[5:] for choice in d["choices"]]


def mmlu() -> list[tuple[str, str]]:
    def question(d: dict[str, Any]) -> str:
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", d["choices"], strict=True))
        return f"{d['question'].strip()}\n{choices}Answer:"

    examples: dict[str, str] = {}
    for d in lines("mmlu/dev.jsonl"):
        opening = f"The following are multiple choice questions (with answers) about {d['subject']}.\n\n"
        examples[d["subject"]] = examples.get(d["subject"], opening) + f"{question(d)} {'ABCD'[d['answer']]}\n\n"
    return [(examples[d["subject"]] + question(d), f" {letter}") for d in lines("mmlu/test.jsonl") for letter in "ABCD"]


def arc() -> list[tuple[str, str]]:
    return [
        (f"Question: {d['question']}\nAnswer:", f" {choice}")
        for d in lines("arc_easy/test.jsonl")
        for choice in d["choices"]
    ]


def gsm8k() -> list[tuple[str, str]]:
    examples = "".join(f"Question: {d['question']}\nAnswer: {d['answer']}\n\n" for d in lines("gsm8k/train.jsonl")[:5])
    return [(f"{examples}Question: {d['question']}\nAnswer:", "\n") for d in lines("gsm8k/test.jsonl")]


@pytest.mark.skipif(not DATA.is_dir() or not TOKENIZER.is_dir(), reason="the sets or Qwen2's tokenizer are not here")
@pytest.mark.parametrize(("task", "saved"), [(hellaswag, 6.3), (mmlu, 17.4), (arc, 3.5), (gsm8k, 12.1)])
@pytest.mark.slow
def test_real_tasks_save_at_least_nine_tenths_of_what_the_trie_saves(task, saved):
    """`saved` was found by a count with other examples."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    pairs = task()
    encoded = [[e.ids for e in tokenizer.encode_batch(side)] for side in zip(*pairs, strict=True)]
    requests = [ScoreRequest(tuple(context), tuple(rest)) for context, rest in zip(*encoded, strict=True)]
    shared = plan(requests, PlanBudget(cells=3328, sequences=256, batch=256, rows=400))
    copied = [
        plan(requests, PlanBudget(4096, n, 2048, 400, copies_states=True, min_shared=m)) for n, m in ((64, 4), (8, 1))
    ]
    assert shared.recomputed == 0
    assert shared.naive / shared.computed >= 0.9 * saved
    for made in copied:
        assert made.computed <= 1.1 * made.distinct
