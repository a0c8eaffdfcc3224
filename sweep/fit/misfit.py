"""A variant that is too large for the devices it was meant for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Misfit:
    """Why the devices do not hold it, in words for people, and what it would take. Bytes."""

    reason: str
    file_bytes: int
    bits_per_weight: float
    memory_bytes: int
