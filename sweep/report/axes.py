"""The axes of a plot, in HTML or in a terminal: range, position of a value, and ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def spread(values: Sequence[float], log: bool, margin: float) -> tuple[float, float]:
    """The range of the values with a margin (a share of the range) on both sides, also around a single value."""
    if not values:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        room = max(log10(high / low) * margin, 0.12)
        return low / 10**room, high * 10**room
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, *, log: bool = False, most: int = 6) -> list[float]:
    """Round values inside [low, high].

    On a linear axis the step is 1, 2, 2.5 or 5 times a power of ten, with about `most` ticks. On a log axis the ticks
    are powers of ten; with fewer than three of them, also 2 and 5 times those; with fewer than two of all these, the
    ticks of a linear axis.
    """
    if log:
        decades = range(floor(log10(low)), ceil(log10(high)) + 1)
        for parts in ((1,), (1, 2, 5)):
            found = [part * 10.0**d for d in decades for part in parts if low <= part * 10.0**d <= high]
            if len(found) >= 3:
                break
        if len(found) > 1:
            return found[:: ceil(len(found) / 8)]
    raw = (high - low) / most
    power = 10.0 ** floor(log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, floor(high / step + 1e-9) + 1)]


def positive(value: float) -> bool:
    """Whether the value can be shown on a log axis."""
    return isfinite(value) and value > 0
