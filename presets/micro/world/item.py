"""The common form of all exercises, and the rule that assigns each to a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import Random

SPLITS = {"train": 88, "calibration": 4, "validation": 4, "test": 4}  # percent


@dataclass(frozen=True)
class WorldItem:
    """One exercise: the `prompt`, the `answer` that follows it, and in `extra` what a checker needs in addition.

    `after` has further prompts and answers on the same topic, which only training reads. `identity` decides the split:
    it is the question without its answer, so no question occurs in two splits.
    """

    identity: str
    prompt: str
    answer: str
    level: int = 0
    extra: dict[str, object] = field(default_factory=dict)
    after: tuple[tuple[str, str], ...] = ()


def split_of(identity: str) -> str:
    """The split of an item, from the first bytes of a hash of its identity."""
    bucket = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big") % 100
    for name, percent in SPLITS.items():
        bucket -= percent
        if bucket < 0:
            return name
    raise AssertionError("the split percentages add up to 100")


def items(draw: Callable[[Random], WorldItem], rng: Random, split: str) -> Iterator[WorldItem]:
    """An endless stream of items of `split`: items are drawn, and those of other splits are skipped."""
    while True:
        item = draw(rng)
        if split_of(item.identity) == split:
            yield item


def distinct(stream: Iterator[WorldItem], count: int) -> list[WorldItem]:
    """The first `count` different items of a stream; fewer if there are not that many."""
    seen: dict[str, WorldItem] = {}
    for item in islice(stream, 50 * count):
        seen.setdefault(item.identity, item)
        if len(seen) == count:
            break
    return list(seen.values())
