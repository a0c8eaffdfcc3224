"""Greedy generation of many texts at the same time.

A fixed number of slots stays busy: when a text ends, the next prompt takes its slot. The common prefix of the prompts
is computed once and shared by all slots: a slot's sequence is cut back to the prefix or, with recurrent states, copied
from a sequence that holds only the prefix. Prompts with different few-shot examples, such as those of a group of tasks,
form families, which run one after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from converters.errors import InputError
from sweep.backends.base import Generation, GenerationRequest, Progress
from sweep.backends.engine import Engine

MIN_SHARED = 16  # tokens; copying a shorter prefix to every slot costs more than computing it
MIN_FAMILY = 128  # tokens; prompts that share fewer do not form a family, because slots are idle at the end of each
REFILL_SHARE = 8  # slots are refilled when one in eight is idle: several prompts together make fuller batches


class Detokenizer(Protocol):
    """Converts tokens to text: one token to bytes, several to a string. Special tokens only if `special`."""

    def piece(self, token: int, *, special: bool = False) -> bytes: ...

    def detokenize(self, tokens: list[int], *, special: bool = False) -> str: ...


def longest_request(requests: Sequence[GenerationRequest], max_length: int) -> int:
    """The largest number of tokens of a prompt with its answer.

    Raises InputError if a prompt or an answer is empty, or if both together are longer than `max_length`.
    """
    for request in requests:
        if not request.prompt or request.max_new_tokens < 1:
            raise InputError("a generation request needs at least one token of prompt and one to generate")
    longest = max(len(r.prompt) + r.max_new_tokens for r in requests)
    if longest > max_length:
        raise InputError(f"a generation of {longest} tokens is longer than the context of {max_length}")
    return longest


def generate(
    engine: Engine,
    vocabulary: Detokenizer,
    requests: Sequence[GenerationRequest],
    n_slots: int,
    ends: frozenset[int],
    progress: Progress | None = None,
) -> list[Generation]:
    """Generations in the order of `requests`; each ends at a token of `ends`, if not earlier.

    `engine` is empty and has room for `n_slots` sequences, or for one more if it copies states.
    """
    results: dict[int, Generation] = {}
    for family in families([r.prompt for r in requests], n_slots):
        for index, result in _generate_family(engine, vocabulary, requests, family, n_slots, ends):
            results[index] = result
            if progress:
                progress(len(results), len(requests))
        engine.clear()
    return [results[i] for i in range(len(requests))]


def families(prompts: Sequence[tuple[int, ...]], least: int) -> list[list[int]]:
    """Indices of prompts in groups: at least `least` prompts with the same first MIN_FAMILY tokens, and all others."""
    by_start: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_start.setdefault(prompt[:MIN_FAMILY], []).append(i)
    groups = [group for start, group in by_start.items() if len(start) == MIN_FAMILY and len(group) >= least]
    grouped = {i for group in groups for i in group}
    others = [i for i in range(len(prompts)) if i not in grouped]
    return [*groups, others] if others else groups


def in_order(prompts: Mapping[int, tuple[int, ...]]) -> list[int]:
    """The keys of prompts in the order in which they start.

    Prompts of similar length come together, so that slots which start together are prefilled in few, full ubatches. But
    all prompts with the same images come one after another, because only the embeddings of few images are kept.
    """
    by_images: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in prompts.items():
        by_images.setdefault(tuple(token for token in prompt if token < 0), []).append(i)
    groups = [sorted(group, key=lambda i: len(prompts[i]), reverse=True) for group in by_images.values()]
    return [i for group in sorted(groups, key=lambda group: len(prompts[group[0]]), reverse=True) for i in group]


def _generate_family(
    engine: Engine,
    vocabulary: Detokenizer,
    requests: Sequence[GenerationRequest],
    family: list[int],
    n_slots: int,
    ends: frozenset[int],
) -> Iterator[tuple[int, Generation]]:
    shared = shared_prefix([requests[i].prompt for i in family])
    prefix_sequence = n_slots if engine.copies_states else 0
    if shared:
        _decode_prefix(engine, requests[family[0]].prompt[:shared], prefix_sequence)
        if not engine.copies_states:
            for sequence in range(1, n_slots):
                engine.copy(prefix_sequence, sequence)
    waiting = deque(in_order({i: requests[i].prompt for i in family}))
    # The index of a slot is its sequence. There are no gaps, because llama.cpp would split a batch at each gap.
    slots: list[_GenerationSlot] = []
    while slots or waiting:
        if waiting and (n_slots - len(slots)) * REFILL_SHARE >= n_slots:
            first = len(slots)
            for sequence in range(first, min(n_slots, first + len(waiting))):
                if engine.copies_states:
                    engine.cut(sequence)
                    if shared:
                        engine.copy(prefix_sequence, sequence)
                else:
                    engine.cut(sequence, shared)
                index = waiting.popleft()
                slots.append(_GenerationSlot(vocabulary, ends, index, requests[index], shared))
            _decode_prompts(engine, slots, first)
        else:
            _decode_next(engine, slots)
        for sequence in reversed([s for s, slot in enumerate(slots) if slot.ended]):
            yield slots[sequence].index, slots[sequence].result()
            last = slots.pop()
            if sequence < len(slots):
                engine.cut(sequence)
                engine.copy(len(slots), sequence)
                slots[sequence] = last


def _decode_prefix(engine: Engine, prefix: tuple[int, ...], sequence: int) -> None:
    tokens = np.array(prefix, np.int32)
    for start in range(0, len(tokens), engine.n_batch):
        part = tokens[start : start + engine.n_batch]
        none = np.zeros(len(part), dtype=bool)
        engine.greedy(part, np.arange(start, start + len(part)), np.full(len(part), sequence, np.int32), none)


def _decode_prompts(engine: Engine, slots: list[_GenerationSlot], first: int) -> None:
    """Decode the prompts of slots[first:] in full batches, and give each of these slots its first generated token."""
    while any(slot.prompt for slot in slots[first:]):
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[bool] = []
        answering: list[_GenerationSlot] = []  # in the order of their last tokens
        for s in range(first, len(slots)):
            slot, room = slots[s], engine.n_batch - len(tokens)
            part, slot.prompt = slot.prompt[:room], slot.prompt[room:]
            if not part:
                continue
            tokens += part
            positions += range(slot.position, slot.position + len(part))
            sequences += [s] * len(part)
            outputs += [False] * (len(part) - 1) + [not slot.prompt]
            slot.position += len(part)
            if not slot.prompt:
                answering.append(slot)
        best = engine.greedy(np.array(tokens), np.array(positions), np.array(sequences), np.array(outputs))
        for slot, token in zip(answering, best, strict=True):
            slot.accept(token)


def _decode_next(engine: Engine, slots: list[_GenerationSlot]) -> None:
    """Generate one more token in every slot."""
    tokens = np.array([slot.generated[-1] for slot in slots], np.int32)
    positions = np.array([slot.position for slot in slots], np.int32)
    n = len(slots)
    best = engine.greedy(tokens, positions, np.arange(n, dtype=np.int32), np.ones(n, dtype=bool))
    for slot, token in zip(slots, best, strict=True):
        slot.position += 1
        slot.accept(token)


class _GenerationSlot:
    """A sequence that generates: the rest of its prompt, its generated tokens, and whether it has ended.

    The tokens of the prompt before `position` are already in the cache.
    """

    def __init__(
        self, vocabulary: Detokenizer, ends: frozenset[int], index: int, request: GenerationRequest, position: int
    ) -> None:
        self._vocabulary = vocabulary
        self._ends = ends
        self._request = request
        self._stops = tuple(stop.encode() for stop in request.stops if stop)
        self._reach = max((len(stop) for stop in self._stops), default=0)
        self._tail = b""
        self.index = index
        self.position = position
        self.prompt = list(request.prompt[position:])
        self.generated: list[int] = []
        self.ended = False

    def accept(self, token: int) -> None:
        """Append a generated token, and set `ended` if the generation ends with it."""
        self.generated.append(token)
        self.ended = token in self._ends or len(self.generated) == self._request.max_new_tokens
        if self._stops and not self.ended:
            # In bytes, because a stop string or a character can be split over tokens. Only the end of the text is
            # searched: the new token can only complete a stop string there.
            self._tail = self._tail[-self._reach :] + self._vocabulary.piece(token, special=True)
            self.ended = any(stop in self._tail for stop in self._stops)

    def result(self) -> Generation:
        text = self._vocabulary.detokenize(self.generated)
        for stop in self._request.stops:
            if stop:
                text = text.split(stop)[0]
        return Generation(tuple(self.generated), text)


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Length of the common prefix of all prompts, shorter than every prompt; 0 if it is shorter than MIN_SHARED."""
    low, high = min(prompts), max(prompts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    shared = min(n, min(len(p) for p in prompts) - 1)
    return shared if len(prompts) > 1 and shared >= MIN_SHARED else 0
