"""The state of a cell while its run is followed."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.endings import Ending


@dataclass(frozen=True)
class CellState:
    """The state of a cell. `status` is "waiting", "known" (done in an earlier run), "running", "done" or an Ending.

    `started` and `ended` are seconds since 1970, `seconds` is the duration of a cell that is done.
    """

    label: str
    status: str = "waiting"
    done: int = 0
    total: int = 0
    part: str = ""
    started: float | None = None
    ended: float | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ("done", "known", *Ending)

    @property
    def share(self) -> float:
        """The share of the cell that is done, 0 to 1."""
        if self.has_ended:
            return 1.0
        return self.done / self.total if self.total else 0.0
