"""Pairs the items that several runs of a task have in common.

Equal documents with equal prompts are the same question. Equal documents with different prompts (another template,
other few-shot examples) are paired too, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from sweep.items import Item
from sweep.reference_items import ReferenceItems
from sweep.statistics import FEWEST_IMAGES, MIN_CLUSTERS, usable_clusters

Values = NDArray[np.float64]
SUBJECTS, IMAGES = "subjects", "images"


@dataclass(frozen=True)
class SharedItems:
    """The items that are in all lists.

    `rows[k]` holds their positions in list k, `unmatched[k]` the number of items of list k that are not in all lists.
    `reworded` counts the shared documents whose prompts differ between the lists.
    """

    rows: tuple[NDArray[np.intp], ...]
    unmatched: tuple[int, ...]
    reworded: int

    @property
    def n(self) -> int:
        return len(self.rows[0])

    def of(self, lists: Sequence[Sequence[Item]]) -> list[list[Item]]:
        """The shared items of the paired lists, in the same order for each list."""
        return [[items[i] for i in rows] for items, rows in zip(lists, self.rows, strict=True)]


def pair_items(lists: Sequence[Sequence[Item]]) -> SharedItems:
    """Pair items by subject and document hash, in the order of the first list.

    Documents that occur several times in a list are paired in the order of their occurrence. Items whose score is not
    finite are not paired.
    """
    positions = [_positions(items) for items in lists]
    common = [key for key in positions[0] if all(key in others for others in positions[1:])]
    rows = tuple(np.array([by_key[key] for key in common], np.intp) for by_key in positions)
    prompts = [[items[i].prompt_hash for i in row] for items, row in zip(lists, rows, strict=True)]
    return SharedItems(
        rows=rows,
        unmatched=tuple(len(items) - len(common) for items in lists),
        reworded=sum(len(set(hashes)) > 1 for hashes in zip(*prompts, strict=True)),
    )


def _positions(items: Sequence[Item]) -> dict[tuple[str, str, int], int]:
    """The positions of items by subject, document hash and number of the occurrence."""
    seen: Counter[tuple[str, str]] = Counter()
    positions = {}
    for i, item in enumerate(items):
        key = item.subject, item.doc_hash
        if isfinite(item.value):
            positions[*key, seen[key]] = i
        seen[key] += 1
    return positions


@dataclass(frozen=True)
class Units:
    """What is independent in a list of items: `labels` (n,) are equal for items that are not independent of each other.

    They count only if there are at least `fewest` of them; otherwise the items themselves are independent. `kind` is
    what a label stands for, in the plural.
    """

    labels: tuple[str, ...]
    fewest: int
    kind: str

    def usable(self) -> NDArray[np.intp] | None:
        """The numbers of the units, (n,); None if the items are independent."""
        return usable_clusters(self.labels, self.fewest)


def units(items: Sequence[Item]) -> Units:
    """The subjects of the items or, without enough subjects, the images that several of them are about."""
    subjects = Units(tuple(item.subject for item in items), MIN_CLUSTERS, SUBJECTS)
    images = tuple(item.cluster or f"item {i}" for i, item in enumerate(items))
    if len(set(images)) == len(images) or subjects.usable() is not None:
        return subjects
    return Units(images, FEWEST_IMAGES, IMAGES)


def reference_items(items: Sequence[Item]) -> ReferenceItems:
    """The items as what variants are compared with."""
    known = units(items)
    keys = [item.question_key for item in items]
    return ReferenceItems(
        dict(zip(keys, (item.value for item in items), strict=True)),
        dict(zip(keys, known.labels, strict=True)),
        known.fewest,
    )


def values(items: Sequence[Item]) -> Values:
    """The value of the task's primary metric for each item, float64 (n,)."""
    return np.array([item.value for item in items], np.float64)


def gold(items: Sequence[Item]) -> Values | None:
    """The probability of the right choice among all choices for each item, float64 (n,); None if an item has none."""
    known = [item.gold for item in items if item.gold is not None]
    return np.array(known, np.float64) if known and len(known) == len(items) else None


def answers_changed(first: Sequence[Item], second: Sequence[Item]) -> float | None:
    """The share of paired items whose answer or value changed; a change from one wrong answer to another counts too.

    None if no answers were stored.
    """
    pairs = list(zip(first, second, strict=True))
    if not any(a.answer or b.answer for a, b in pairs):
        return None
    return sum(a.answer != b.answer or a.value != b.value for a, b in pairs) / len(pairs)
