"""How a cell ends without a whole result: a word that the store, events, records and every display have in common."""

from __future__ import annotations

from enum import StrEnum


class Ending(StrEnum):
    """From the worst to the least:

    - FAILED: its job gave no result, or only a part of one, with an error.
    - CANCELLED: a person cancelled it.
    - SKIPPED: it was not run, or a part of its result is missing, because a cell that it needs has no result.
    """

    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


EVENTS = {f"cell_{ending}": ending for ending in Ending}
"""The kinds of events that report these endings."""
