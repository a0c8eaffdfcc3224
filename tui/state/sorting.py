"""By which column a table is sorted, and the rows in this order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Row = TypeVar("Row")
ARROWS = {True: "↓", False: "↑"}


@dataclass(frozen=True)
class Sorting:
    """The column (its head) to sort by. `down`: the largest first. Rows without the figure come last."""

    head: str = "bpw"
    down: bool = False

    def after(self, heads: Sequence[str]) -> str:
        """The head that follows in `heads`, which are not empty."""
        here = heads.index(self.head) if self.head in heads else -1
        return heads[(here + 1) % len(heads)]

    def marked(self, head: str) -> str:
        """A head, with an arrow if the table is sorted by it."""
        return f"{head} {ARROWS[self.down]}" if head == self.head else head


def in_order(rows: Sequence[Row], value: Callable[[Row], float | str | None], down: bool) -> list[Row]:
    """The rows by their values. Equal rows stay as they were; those without a finite value come last."""

    def is_known(row: Row) -> bool:
        found = value(row)
        return found is not None and (isinstance(found, str) or math.isfinite(found))

    known = sorted((row for row in rows if is_known(row)), key=value, reverse=down)  # type: ignore[arg-type]
    return [*known, *(row for row in rows if not is_known(row))]
