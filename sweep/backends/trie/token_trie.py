"""The token trie: all requests as paths from its root, each common beginning held once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from sweep.backends.base import ScoreRequest

Ints = NDArray[np.int32]


class Trie:
    """The trie as its leaves in lexicographic order, which is depth first: a leaf shares its first `shared[i]` tokens
    with the leaf before it and computes the rest. A request that is the beginning of another has no leaf of its own.
    """

    def __init__(self, requests: Sequence[ScoreRequest]) -> None:
        self._requests = requests
        paths = [np.array(r.context + r.continuation[:-1], np.int32) for r in requests]
        # big-endian bytes compare as the tokens do, and quickly
        keys = [path.astype(">i4").tobytes() for path in paths]
        order = sorted(range(len(requests)), key=keys.__getitem__)
        self.paths: list[Ints] = []
        self.shared: list[int] = []
        self.members: list[list[int]] = []  # requests of each leaf
        waiting: list[int] = []
        for i, following in zip_longest(order, order[1:]):
            waiting.append(i)
            if following is None or not keys[following].startswith(keys[i]):
                self.shared.append(_common(self.paths[-1], paths[i]) if self.paths else 0)
                self.paths.append(paths[i])
                self.members.append(waiting)
                waiting = []
        self.lengths = [len(path) for path in self.paths]
        self.picks: list[NDArray[np.int64]] = []

    def size(self) -> int:
        return sum(self.lengths) - sum(self.shared)

    def snap(self, min_shared: int) -> None:
        """Let leaves part earlier, where an earlier parting is fewer than `min_shared` tokens away."""
        partings = [0]  # of the path of the leaf before
        for i, shared in enumerate(self.shared):
            while partings[-1] > shared:
                partings.pop()
            if shared - partings[-1] >= min_shared:
                partings.append(shared)
            self.shared[i] = partings[-1]

    def attach(self) -> None:
        """Give the rows that requests want to the leaves that compute them: (position, token, request) of each leaf."""
        wanted: list[list[tuple[int, int, int]]] = [[] for _ in self.paths]
        starts: list[int] = []  # the path's parts in order: where each starts and which leaf computes it
        owners: list[int] = []
        for leaf, members in enumerate(self.members):
            while starts and starts[-1] >= self.shared[leaf]:
                starts.pop()
                owners.pop()
            starts.append(self.shared[leaf])
            owners.append(leaf)
            for i in members:
                request = self._requests[i]
                for position, token in enumerate(request.continuation, len(request.context) - 1):
                    wanted[owners[bisect_right(starts, position) - 1]].append((position, token, i))
        self.picks = [np.array(sorted(rows), np.int64).reshape(-1, 3) for rows in wanted]


def _common(one: Ints, other: Ints) -> int:
    """How many tokens both begin with."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n
