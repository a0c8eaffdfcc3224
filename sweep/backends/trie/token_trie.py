"""The token trie: requests are paths from its root, and each common prefix exists once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from sweep.backends.base import ScoreRequest

Ints = NDArray[np.int32]


class Trie:
    """The trie, stored as its leaves in lexicographic order, which is the depth-first order.

    Leaf i shares its first `shared[i]` tokens with the leaf before it, and computes the rest. A request that is a
    prefix of another request has no leaf of its own.
    """

    def __init__(self, requests: Sequence[ScoreRequest]) -> None:
        self._requests = requests
        paths = [np.array(r.context + r.continuation[:-1], np.int32) for r in requests]
        # big-endian bytes have the same order as the tokens, and comparing them is fast
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
        """Move each branching position to an earlier one on the path if that is fewer than `min_shared` tokens away."""
        branchings = [0]  # branching positions on the path of the previous leaf
        for i, shared in enumerate(self.shared):
            while branchings[-1] > shared:
                branchings.pop()
            if shared - branchings[-1] >= min_shared:
                branchings.append(shared)
            self.shared[i] = branchings[-1]

    def attach(self) -> None:
        """Set `picks`: for each leaf the log-probabilities that it computes, as rows (position, token, request)."""
        picks: list[list[tuple[int, int, int]]] = [[] for _ in self.paths]
        starts: list[int] = []  # the parts of the path in order: where each starts, and which leaf computes it
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
                    picks[owners[bisect_right(starts, position) - 1]].append((position, token, i))
        self.picks = [np.array(sorted(rows), np.int64).reshape(-1, 3) for rows in picks]


def _common(one: Ints, other: Ints) -> int:
    """Number of tokens in the common prefix."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n
