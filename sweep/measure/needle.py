"""A task for long contexts, made on this machine: find one of several numbers in a long text, as in the tasks
niah_multikey of RULER (arXiv 2404.06654).

The text is of random sentences about everyday things. At even distances it has sentences such as "The number of the
amber heron is 4821973." A question asks for one of these numbers. All questions share one text, so that a model reads
it once.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

NAME = re.compile(r"needle_(\d{1,9})")
"""The name of the task with a text of so many tokens."""

LEAST_TOKENS = 256
SEED = 20260
MOST_NEEDLES = 40
TOKENS_PER_NEEDLE = 64  # of the text, at least
RESERVED_TOKENS = 96  # for the question, the answer and a chat template

_COLOURS = ("amber", "black", "blue", "brown", "copper", "green", "grey", "orange", "purple", "red", "white", "yellow")
_ANIMALS = ("badger", "bear", "crane", "eagle", "fox", "goose", "heron", "horse", "otter", "owl", "swan", "wolf")
_PEOPLE = ("A baker", "A carpenter", "A doctor", "A farmer", "A gardener", "A nurse", "A painter", "A sailor")
_ACTS = ("bought", "carried", "cleaned", "drew", "found", "kept", "moved", "sold", "washed", "wanted")
_THINGS = ("a basket", "a chair", "a clock", "a coat", "a lamp", "a letter", "a rope", "a shovel", "a spoon", "a table")
_PLACES = ("at the market", "behind the school", "by the river", "in the garden", "near the bridge", "on the hill")
_TIMES = ("after dinner", "before noon", "in the spring", "last week", "on a rainy day", "on Monday", "that morning")


@dataclass(frozen=True)
class Needle:
    """A question: the number of the `key` that the text names."""

    key: str
    number: str


@dataclass(frozen=True)
class NeedleTask:
    """A text and its questions, in random order, so that the first few of them are about all parts of the text."""

    text: str
    needles: tuple[Needle, ...]


def needle_task(tokens: int, count_tokens: Callable[[str], int]) -> NeedleTask:
    """The task for prompts of `tokens` tokens, with their answers and a chat template; the text is a little shorter.

    `count_tokens` gives the number of tokens of a text. The same arguments give the same task. Raises ValueError for
    fewer than LEAST_TOKENS tokens.
    """
    if tokens < LEAST_TOKENS:
        raise ValueError(f"{tokens} tokens are fewer than {LEAST_TOKENS}")
    chance = random.Random(SEED)
    count = min(MOST_NEEDLES, tokens // TOKENS_PER_NEEDLE)
    keys = [f"{colour} {animal}" for colour in _COLOURS for animal in _ANIMALS]
    needles = [Needle(key, str(chance.randrange(1_000_000, 10_000_000))) for key in chance.sample(keys, count)]
    told = [f"The number of the {one.key} is {one.number}." for one in needles]
    left = tokens - RESERVED_TOKENS - count_tokens(" ".join(told))
    others = _sentences(left, count_tokens, chance)
    text = _mixed(told, others)
    while others and count_tokens(text) > tokens - RESERVED_TOKENS:  # tokens of joined sentences may be more
        others.pop()
        text = _mixed(told, others)
    return NeedleTask(text, tuple(chance.sample(needles, count)))


def _sentences(tokens: int, count_tokens: Callable[[str], int], chance: random.Random) -> list[str]:
    """Random sentences of at most so many tokens together."""
    found: list[str] = []
    while True:
        parts = (chance.choice(words) for words in (_PEOPLE, _ACTS, _THINGS, _PLACES, _TIMES))
        sentence = f"{' '.join(parts)}."
        tokens -= count_tokens(f" {sentence}")
        if tokens < 0:
            return found
        found.append(sentence)


def _mixed(told: list[str], others: list[str]) -> str:
    """The sentences `told` at even distances among the others."""
    sentences: list[str] = []
    for at, needle in enumerate(told):
        first, end = (len(others) * place // len(told) for place in (at, at + 1))
        middle = (first + end) // 2
        sentences += [*others[first:middle], needle, *others[middle:end]]
    return " ".join(sentences)
