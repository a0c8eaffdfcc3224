"""How much a sweep measures: the levels of --effort, from presets/effort.toml."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

import presets
from converters.errors import InputError
from sweep.defaults import SPEED_SECONDS


class Effort(StrEnum):
    """How much a sweep measures."""

    QUICK = "quick"
    NORMAL = "normal"
    THOROUGH = "thorough"


@dataclass(frozen=True)
class Extent:
    """What a level of effort means.

    `limit` is the number of items per task; None: the default. `all_items`: tasks that have a default limit have none.
    `text_tokens` is how much of each text is read; None: all. `precision` is the default of --precision.
    `speed_seconds` is the time for the timings of speed.
    """

    limit: int | None = None
    all_items: bool = False
    text_tokens: int | None = None
    precision: str | None = None
    speed_seconds: float = SPEED_SECONDS

    def windows(self, window: int) -> int | None:
        """The number of windows of `window` tokens that are read of each text; None: all. At least two are."""
        return None if self.text_tokens is None else max(2, self.text_tokens // window)


def parse_effort(text: str | None, where: str) -> Effort | None:
    """The level of this name; None for None. Raises InputError, which names `where` it stands."""
    if text is None or text in tuple(Effort):
        return None if text is None else Effort(text)
    raise InputError(f"{where}: 'effort' must be {', '.join(list(Effort)[:-1])} or {list(Effort)[-1]}, not {text!r}")


def extent_of(effort: Effort | None) -> Extent:
    """What a level means; None is the normal one."""
    table = presets.effort()[effort or Effort.NORMAL]
    return Extent(**{field.name: table[field.name] for field in fields(Extent) if field.name in table})
