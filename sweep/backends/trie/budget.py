"""The limits of a plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanBudget:
    """The limits of a plan.

    Attributes:
        cells: cells of the KV cache.
        sequences: sequences at the same time.
        batch: tokens per step.
        rows: rows of logits per step.
        copies_states: sequences can only be copied as a whole (recurrent models).
        min_shared: with `copies_states`, a branch begins at an existing branching position if it is fewer than this
            many tokens earlier, because each branching position is a small step of its own, which can cost more than it
            saves.
    """

    cells: int
    sequences: int
    batch: int
    rows: int
    copies_states: bool = False
    min_shared: int = 1
