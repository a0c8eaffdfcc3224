"""What a plan may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What a plan may use: `cells` of the cache and `sequences` at a time, `batch` tokens and `rows` of logits a step.

    `copies_states`: sequences are copied whole (recurrent models). A prefix that is shorter by fewer than `min_shared`
    tokens is then branched from instead: each branch is a small step of its own, which may cost more than it saves.
    """

    cells: int
    sequences: int
    batch: int
    rows: int
    copies_states: bool = False
    min_shared: int = 1
