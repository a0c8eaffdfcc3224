"""Which items several runs of a task have in common.

Equal documents of a subject with equal prompts are the same question; equal documents with other prompts (another
template, other examples) are the same document asked otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from sweep.items import Item

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Shared:
    """Items that all lists have: `rows[k]` holds their places in list k, `alone[k]` how many of its items others lack.

    `reworded` counts the shared documents that were not asked by the same prompt everywhere.
    """

    rows: tuple[NDArray[np.intp], ...]
    alone: tuple[int, ...]
    reworded: int

    @property
    def n(self) -> int:
        return len(self.rows[0])

    def of(self, lists: Sequence[Sequence[Item]]) -> list[list[Item]]:
        """The shared items of the lists that were paired, in the same order in each."""
        return [[found[i] for i in rows] for found, rows in zip(lists, self.rows, strict=True)]


def share(lists: Sequence[Sequence[Item]]) -> Shared:
    """Pair items by subject and document hash, in the order of the first list.

    Documents that occur several times in a list are told apart by their order. Scores that are not numbers pair with
    nothing.
    """
    places = [_places(items) for items in lists]
    common = [key for key in places[0] if all(key in others for others in places[1:])]
    rows = tuple(np.array([found[key] for key in common], np.intp) for found in places)
    prompts = [[items[i].prompt_hash for i in found] for items, found in zip(lists, rows, strict=True)]
    return Shared(
        rows=rows,
        alone=tuple(len(items) - len(common) for items in lists),
        reworded=sum(len(set(asked)) > 1 for asked in zip(*prompts, strict=True)),
    )


def _places(items: Sequence[Item]) -> dict[tuple[str, str, int], int]:
    seen: Counter[tuple[str, str]] = Counter()
    places = {}
    for i, item in enumerate(items):
        key = item.subject, item.doc_hash
        if isfinite(item.value):
            places[*key, seen[key]] = i
        seen[key] += 1
    return places


def values(items: Sequence[Item]) -> Values:
    """Each item's value of the task's primary metric, shape (n,)."""
    return np.array([item.value for item in items], np.float64)


def gold(items: Sequence[Item]) -> Values | None:
    """Each item's probability of the right choice among all choices, shape (n,); None where an item has none."""
    known = [item.gold for item in items if item.gold is not None]
    return np.array(known, np.float64) if known and len(known) == len(items) else None


def answers_changed(first: Sequence[Item], second: Sequence[Item]) -> float | None:
    """Share of paired items whose answer or value changed, from one wrong answer to another too.

    None where no answers were stored.
    """
    pairs = list(zip(first, second, strict=True))
    if not any(a.answer or b.answer for a, b in pairs):
        return None
    return sum(a.answer != b.answer or a.value != b.value for a, b in pairs) / len(pairs)
