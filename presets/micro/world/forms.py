"""Instructions about the format of an answer, which is checked exactly, like IFEval."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from presets.micro.world.item import WorldItem
from presets.micro.world.names import WORDS

LEVELS = 4  # 2 + level words; from level 2 on up to two decorations, at level 3 two orders

_ORDERS: dict[str, Callable[[list[str]], list[str]]] = {
    "in the given order": lambda words: words,
    "in reverse order": lambda words: words[::-1],
    "with the last word first": lambda words: words[-1:] + words[:-1],
    "with the first word last": lambda words: words[1:] + words[:1],
    "without the first word": lambda words: words[1:],
    "without the last word": lambda words: words[:-1],
    "with each word twice": lambda words: [word for word in words for _ in range(2)],
    "with the first word twice": lambda words: words[:1] + words,
}
# with spaces, so that a word is always the same token
_SEPARATORS = {"commas": ", ", "dashes": " - ", "slashes": " / ", "plus signs": " + ", "spaces": " ", "and": " and "}
_DECORATIONS = {
    "in round brackets": "( {} )",
    "in square brackets": "[ {} ]",
    "between stars": "* {} *",
    "after the word list": "list: {}",
    "followed by the word done": "{} done",
    "followed by a question mark": "{} ?",
}


def draw(rng: Random, level: int | None = None) -> WorldItem:
    """A list of words to write in a given order, with given separators and decorations."""
    level = rng.randrange(LEVELS) if level is None else level
    words = rng.sample(WORDS, 2 + level)
    orders = rng.sample(list(_ORDERS), 1 + (level >= 3))
    separator = rng.choice(list(_SEPARATORS))
    decorations = rng.sample(list(_DECORATIONS), rng.randint(0, 1) + (level >= 2 and rng.random() < 0.5))
    rules = [", then ".join(orders), f"separated by {separator}", *decorations]
    instruction = f"Write the words {' '.join(words)} {'; '.join(rules)}."
    result = list(words)
    for order in orders:
        result = _ORDERS[order](result)
    text = _SEPARATORS[separator].join(result)
    for rule in decorations:
        text = _DECORATIONS[rule].format(text)
    return WorldItem(
        identity=instruction,
        prompt=f"Instruction: {instruction}\nResponse:",
        answer=f" {text}",
        level=level,
        extra={"instruction": instruction, "response": text},
    )
